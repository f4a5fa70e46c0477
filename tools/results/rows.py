"""Reads a study: its YAML file and the lines of finished runs in its results.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gbw_d2.errors import UserError

RESULTS = "results.jsonl"

RunName = tuple[str, str, int]  # recipe, arm, seed
Values = dict[str, float | None]


@dataclass(frozen=True)
class Scores:
    """What a run scored on one dataset, all in 0..100; None is undefined.

    Args:
        metrics: flat metrics, each named with its protocol.
        classes: class name -> score name -> value.
    """

    metrics: Values
    classes: dict[str, Values]

    def leading(self, name: str) -> float | None:
        """Returns a metric under the protocol with most classes, such as mIoU_16 for mIoU."""
        counts = [
            int(end)
            for start, _, end in (key.rpartition("_") for key in self.metrics)
            if start == name and end.isdigit()
        ]
        return self.metrics[f"{name}_{max(counts)}"] if counts else None


@dataclass(frozen=True)
class Run:
    """One line of results.jsonl.

    Args:
        step_seconds: time of one training step.
        peak_memory_mb: in MiB.
        machine: device, torch and threads, in words.
        scores: dataset name -> scores.
    """

    recipe: str
    arm: str
    seed: int
    package: str
    iterations: int
    step_seconds: float | None
    peak_memory_mb: float | None
    machine: str
    scores: dict[str, Scores]


@dataclass(frozen=True)
class Study:
    """A study with its finished runs, each recipe, arm and seed once.

    Args:
        recipes: names, in the file's order.
        arms: name -> recipes that it is run in, in the file's order.
        first_seeds: seeds by whose scores arms were chosen for further seeds; empty where no arm
            was.
        choice_sets: test sets of those scores; empty for all.
        failed: recipe, arm and seed of runs that ended with an error.
        unknown: recipes and arms that results.jsonl has and the file has not.
    """

    path: Path
    title: str
    question: str
    notes: str
    recipes: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    baseline: str
    rivals: tuple[str, ...]
    rare: tuple[str, ...]
    first_seeds: tuple[int, ...]
    choice_sets: tuple[str, ...]
    failed: tuple[RunName, ...]
    runs: tuple[Run, ...]
    unknown: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where the results lie and the tables go."""
        return self.path.with_suffix("")

    def role(self, arm: str) -> str:
        """Returns ``baseline``, ``rival`` or nothing."""
        return "baseline" if arm == self.baseline else "rival" if arm in self.rivals else ""


def read_study(path: Path) -> Study:
    """Reads a study's file and what has run of it.

    Raises:
        UserError: no such file, entries that are missing or name what is not there, a damaged
            line, or no finished run.
    """
    content = _read_yaml(path)
    arms = {
        name: tuple((values or {}).get("recipes", content["recipes"]))
        for name, values in content["arms"].items()
    }
    rivals = tuple(content.get("rivals") or ())
    strange = [arm for arm in (content["baseline"], *rivals) if arm not in arms]
    if strange:
        raise UserError(
            f"{path}: baseline and rivals must be arms; {', '.join(map(str, strange))} is none "
            f"(there are: {', '.join(arms)})"
        )
    found = _read_runs(path.with_suffix("") / RESULTS)
    known = {name: run for name, run in found.items() if _is_part(name, content["recipes"], arms)}
    runs = [run for run in known.values() if run is not None]
    if not runs:
        raise UserError(f"{path}: no run of its recipes and arms is finished; run tools/study.py")
    study = Study(
        path=path,
        title=str(content["title"]),
        question=str(content.get("question") or "").strip(),
        notes=str(content.get("notes") or "").strip(),
        recipes=tuple(content["recipes"]),
        arms=arms,
        baseline=content["baseline"],
        rivals=rivals,
        rare=tuple(content.get("rare") or ()),
        first_seeds=_seeds_of_choice(content.get("rungs") or ()),
        choice_sets=tuple((content.get("choose") or {}).get("datasets") or ()),
        failed=tuple(name for name, run in known.items() if run is None),
        runs=tuple(runs),
        unknown=tuple(dict.fromkeys(f"{name[0]} {name[1]}" for name in found if name not in known)),
    )
    _check_rare(study)
    return study


def _is_part(name: RunName, recipes: Container[str], arms: Container[str]) -> bool:
    return name[0] in recipes and name[1] in arms


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"study '{path}' does not exist; give the YAML file of a study")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {error}") from error
    needed = {"title": str, "recipes": dict, "arms": dict, "baseline": str}
    wrong = [
        key
        for key, kind in needed.items()
        if not isinstance(content, dict) or not isinstance(content.get(key), kind)
    ]
    if wrong:
        raise UserError(
            f"{path}: {', '.join(wrong)} missing or of the wrong kind; a study has title and "
            "baseline (texts), recipes and arms (mappings of names)"
        )
    return content


def _seeds_of_choice(rungs: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Returns the seeds of all rungs before the last one that takes the best arms only."""
    last = max((i for i, rung in enumerate(rungs) if rung.get("best")), default=0)
    return tuple(dict.fromkeys(seed for rung in rungs[:last] for seed in rung["seeds"]))


def _check_rare(study: Study) -> None:
    scored = {name for run in study.runs for s in run.scores.values() for name in s.classes}
    strange = [name for name in study.rare if name not in scored]
    if strange:
        raise UserError(
            f"{study.path}: no run has scores of the rare classes {', '.join(strange)} "
            f"(there are: {', '.join(sorted(scored))})"
        )


def _read_runs(path: Path) -> dict[RunName, Run | None]:
    """Reads the lines; of several for one run the last counts. None is a run that failed."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; no run is finished yet: run tools/study.py")
    lines = path.read_text(encoding="utf-8").splitlines()
    runs: dict[RunName, Run | None] = {}
    for number, text in enumerate(lines, start=1):
        try:
            entry = json.loads(text)
            name = entry["recipe"], entry["arm"], entry["seed"]
            runs[name] = None if "error" in entry else _run(entry)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError):
                break  # study.py is writing it, or was killed while it did
            raise UserError(
                f"{path}, line {number}: expected what tools/study.py writes, found "
                f"{type(error).__name__} {error}; the file is damaged"
            ) from error
    return runs


def _run(entry: Mapping[str, Any]) -> Run:
    return Run(
        recipe=entry["recipe"],
        arm=entry["arm"],
        seed=entry["seed"],
        package=entry["package"],
        iterations=entry["iterations"],
        step_seconds=_finite(entry["step_seconds"]),
        peak_memory_mb=_finite(entry["peak_memory_mb"]),
        machine=f"{entry['device']}, torch {entry['torch']}, {entry['threads']} thread(s)",
        scores={
            name: Scores(
                {key: _finite(value) for key, value in scores["metrics"].items()},
                {
                    label: {key: _finite(value) for key, value in row.items()}
                    for label, row in scores["classes"].items()
                },
            )
            for name, scores in entry["scores"].items()
        },
    )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
