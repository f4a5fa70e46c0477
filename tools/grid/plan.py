"""A study's YAML file: recipes x arms x seeds, and which runs that makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gbw_d2.errors import UserError

_REQUIRED = ("title", "recipes", "arms", "baseline", "rungs")
_OPTIONAL = (
    *("question", "rivals", "rare", "choose"),
    *("schedule", "overrides", "threads", "accept_packages", "notes"),
)
_KEYS = frozenset((*_REQUIRED, *_OPTIONAL))


@dataclass(frozen=True)
class Job:
    """One run: what is trained, as a config file and what is changed in it."""

    recipe: str
    arm: str
    seed: int
    config_file: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """Recipe, arm and seed, for people and folders."""
        return f"{self.recipe}-{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Rung:
    """A part of the grid: all arms, or the best of those that the rungs before it ran.

    Args:
        seeds: that each of its arms is run with.
        best: number of arms that go on, by the study's choice; None for all.
        always: arms that run whatever their scores.
    """

    seeds: tuple[int, ...]
    best: int | None = None
    always: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """How arms are ranked: the mean paired difference to the baseline over all of these.

    Args:
        datasets: test sets.
        metrics: flat metrics (``mIoU_16``), or ``rare_IoU`` and ``rare_recall``.
    """

    datasets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("mIoU_16", "rare_IoU")


@dataclass(frozen=True)
class Study:
    """A study as its file says; the results lie in the folder of the file's name beside it."""

    path: Path
    title: str
    recipes: Mapping[str, Mapping[str, Any]]
    arms: Mapping[str, Mapping[str, Any]]
    baseline: str
    rungs: tuple[Rung, ...]
    rare: tuple[str, ...] = ()
    choose: Choice = field(default_factory=Choice)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    accept_packages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def folder(self) -> Path:
        """Where the small results are kept."""
        return self.path.with_suffix("")

    def jobs(self, arms: Iterable[str], seeds: Sequence[int]) -> list[Job]:
        """Lists the runs of some arms: seed by seed, so that every arm soon has a first result."""
        wanted = set(arms)
        return [
            self._job(recipe, arm, seed)
            for seed in seeds
            for recipe in self.recipes
            for arm, values in self.arms.items()
            if arm in wanted and recipe in values.get("recipes", self.recipes)
        ]

    def _job(self, recipe: str, arm: str, seed: int) -> Job:
        changed = {
            **self.schedule,
            **self.overrides,
            **self.recipes[recipe],
            **self.arms[arm],
            "SEED": seed,
        }
        config_file = changed.pop("config")
        changed.pop("recipes", None)
        words = [word for key, value in changed.items() for word in (key, _as_word(value))]
        return Job(recipe, arm, seed, config_file, tuple(words))


def _flat(path: str) -> dict[str, Any]:
    """Reads a YAML file of config keys as ``KEY.KEY: value``."""
    if not Path(path).is_file():
        raise UserError(f"schedule '{path}' does not exist")
    flat: dict[str, Any] = {}
    todo = [("", yaml.safe_load(Path(path).read_text()))]
    for prefix, node in todo:
        for key, value in node.items():
            if isinstance(value, dict):
                todo.append((f"{prefix}{key}.", value))
            else:
                flat[prefix + key] = value
    return flat


def _as_word(value: Any) -> str:
    # yacs reads the words of the command line as Python literals.
    return value if isinstance(value, str) else repr(value)


def load_study(path: Path) -> Study:
    """Reads a study.

    Raises:
        UserError: no such file, an entry that is missing or unknown, or a name that is not there.
    """
    if not path.is_file():
        raise UserError(f"study '{path}' does not exist; see studies/ for those that do")
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping with {', '.join(_REQUIRED)}")
    unknown = sorted(content.keys() - _KEYS)
    missing = [key for key in _REQUIRED if key not in content]
    if unknown or missing:
        raise UserError(
            f"{path}: unknown entries {unknown or 'none'}, missing entries {missing or 'none'}; "
            f"known: {', '.join(sorted(_KEYS))}"
        )
    study = Study(
        path=path,
        title=content["title"],
        recipes=content["recipes"],
        arms={name: values or {} for name, values in content["arms"].items()},
        baseline=content["baseline"],
        rungs=tuple(_rung(path, rung) for rung in content["rungs"]),
        rare=tuple(content.get("rare", ())),
        choose=_choice(content.get("choose", {})),
        schedule=_flat(content["schedule"]) if "schedule" in content else {},
        overrides=content.get("overrides") or {},
        threads=content.get("threads", 1),
        accept_packages=tuple(content.get("accept_packages") or ()),
    )
    _check(study)
    return study


def _rung(path: Path, values: Mapping[str, Any]) -> Rung:
    unknown = sorted(values.keys() - {"seeds", "best", "always"})
    if unknown or not values.get("seeds"):
        raise UserError(f"{path}: a rung has seeds, and may have best and always; found {values}")
    return Rung(tuple(values["seeds"]), values.get("best"), tuple(values.get("always", ())))


def _choice(values: Mapping[str, Any]) -> Choice:
    return Choice(**{key: tuple(value) for key, value in values.items()})


def _check(study: Study) -> None:
    for recipe, values in study.recipes.items():
        if "config" not in values:
            raise UserError(f"{study.path}: recipe '{recipe}' names no config")
    always = {arm for rung in study.rungs for arm in rung.always}
    unknown = sorted(({study.baseline} | always) - study.arms.keys())
    if unknown:
        raise UserError(
            f"{study.path}: no arm {', '.join(unknown)} (there are: {', '.join(study.arms)})"
        )
    for arm, values in study.arms.items():
        strange = set(values.get("recipes", ())) - study.recipes.keys()
        if strange:
            raise UserError(f"{study.path}: arm '{arm}' is for unknown recipes {sorted(strange)}")
