"""A study and its runs: the contents of its YAML file and of its results.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gbw_d2.errors import UserError
from gbw_studies.grid.ledger import Row, RunName, Values, read_rows, run_name
from gbw_studies.grid.plan import Study, load_study


@dataclass(frozen=True)
class Scores:
    """The scores of a run on one dataset, 0..100; None if undefined.

    Args:
        metrics: flat metrics, each named with its protocol.
        classes: class name -> score name -> value.
    """

    metrics: Values
    classes: Mapping[str, Values]

    def leading(self, name: str) -> float | None:
        """Returns a metric under the protocol with most classes.

        For mIoU that is mIoU_all for label spaces of one's own, and mIoU_16 for SYNTHIA's classes.
        """
        split = (key.rpartition("_") for key in self.metrics)
        sizes = {
            key: math.inf if key == "all" else int(key)
            for start, _, key in split
            if start == name and (key == "all" or key.isdigit())
        }
        return self.metrics[f"{name}_{max(sizes, key=sizes.__getitem__)}"] if sizes else None


@dataclass(frozen=True)
class Run:
    """One finished run.

    Args:
        step_seconds: time of one training step.
        peak_memory_mb: in MiB.
        machine: device, version of torch and threads, as text.
        taken_from: name of the study that ran it; "" for this one.
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
    taken_from: str
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class Results:
    """A study and its runs, each recipe, arm and seed once.

    Args:
        study: the content of its file.
        runs: the finished runs.
        failed: recipe, arm and seed of the runs that ended with an error.
        unknown: recipes and arms in results.jsonl that the file does not have.
    """

    study: Study
    runs: tuple[Run, ...]
    failed: tuple[RunName, ...]
    unknown: tuple[str, ...]

    @property
    def first_seeds(self) -> tuple[int, ...]:
        """Seeds by whose scores arms were chosen for further seeds; empty if none were."""
        rungs = self.study.rungs
        last = max((i for i, rung in enumerate(rungs) if rung.best is not None), default=0)
        return tuple(dict.fromkeys(seed for rung in rungs[:last] for seed in rung.seeds))

    def role(self, arm: str) -> str:
        """Returns ``baseline``, ``rival`` or nothing."""
        if arm == self.study.baseline:
            return "baseline"
        return "rival" if arm in self.study.rivals else ""


def read_results(path: Path) -> Results:
    """Reads a study's file and its results; of several lines for one run the last one counts.

    Raises:
        UserError: a study or a line that cannot be read, or rare classes without scores.
    """
    study = load_study(path)
    rows = {run_name(row): row for row in read_rows(study.folder)}
    known = {n: row for n, row in rows.items() if n[0] in study.recipes and n[1] in study.arms}
    results = Results(
        study=study,
        runs=tuple(_run(row) for row in known.values() if "error" not in row),
        failed=tuple(name for name, row in known.items() if "error" in row),
        unknown=tuple(dict.fromkeys(f"{n[0]} {n[1]}" for n in rows if n not in known)),
    )
    if results.runs:
        _check_rare(results)
    return results


def _check_rare(results: Results) -> None:
    scored = {name for run in results.runs for s in run.scores.values() for name in s.classes}
    strange = [name for name in results.study.rare if name not in scored]
    if strange:
        raise UserError(
            f"{results.study.path}: no run has scores of the rare classes {', '.join(strange)} "
            f"(there are: {', '.join(sorted(scored))})"
        )


def _run(row: Row) -> Run:
    return Run(
        recipe=row["recipe"],
        arm=row["arm"],
        seed=row["seed"],
        package=row["package"],
        iterations=row["iterations"],
        step_seconds=row["step_seconds"],
        peak_memory_mb=row["peak_memory_mb"],
        machine=f"{row['device']}, torch {row['torch']}, {row['threads']} thread(s)",
        taken_from=row.get("taken_from", ""),
        scores={name: Scores(s["metrics"], s["classes"]) for name, s in row["scores"].items()},
    )
