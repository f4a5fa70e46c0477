"""A study's YAML file, which defines a grid of runs: recipes x arms x seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gbw_d2.errors import UserError
from gbw_d2.plain_files import ContentError, read_yaml

_REQUIRED = {"title": str, "recipes": dict, "arms": dict, "baseline": str, "rungs": list}
_OPTIONAL = {
    **{"question": str, "rivals": list, "rare": list, "choose": dict, "schedule": str},
    **{"overrides": dict, "threads": int, "accept_packages": list, "notes": str, "proposed": list},
    **{"answer": str},
}
_ARM = {"recorded": str}
_RUNG = {"seeds": list, "best": int, "always": list}
_CHOICE = {"datasets": list, "metrics": list}
_LISTED = {
    **dict.fromkeys(("rivals", "rare", "proposed", "accept_packages", "always", "with"), str),
    **{"datasets": str, "metrics": str, "seeds": int, "recipes": str},
}
_WORDS = {str: "a text", int: "a whole number", list: "a list", dict: "a mapping"}


@dataclass(frozen=True)
class Job:
    """One run: a config file, bases that replace the config's, and values of keys."""

    recipe: str
    arm: str
    seed: int
    config_file: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """Recipe, arm and seed, for messages and folders."""
        return f"{self.recipe}-{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Rung:
    """A part of the grid: all arms, or the best arms of earlier rungs.

    Args:
        seeds: that each of its arms is run with.
        best: number of arms to continue with, by the study's choice; None for all.
        always: arms that run regardless of their scores.
    """

    seeds: tuple[int, ...]
    best: int | None = None
    always: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The ranking of arms: the mean paired difference to the baseline over all of these.

    Args:
        datasets: test sets.
        metrics: flat metrics (``mIoU_16``), or ``rare_IoU`` and ``rare_recall``.
    """

    datasets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("mIoU_16", "rare_IoU")


@dataclass(frozen=True)
class Study:
    """The content of a study's file; its results are in the folder of the same name beside it.

    Args:
        arms: name -> what it changes in a config, or ``recorded``, a text, for an arm that this
            version can no longer run but whose rows stay in the tables.
        answer: the result in one or two sentences; ``notes`` has the details.
        baseline: the arm that all others are compared with.
        rivals: existing methods with which the proposed arms are compared.
        proposed: arms that are compared with the baseline, each rival and each other.
        rare: names of the rare classes.
        accept_packages: hashes of earlier versions of the package whose results are still valid.
    """

    path: Path
    title: str
    recipes: Mapping[str, Mapping[str, Any]]
    arms: Mapping[str, Mapping[str, Any]]
    baseline: str
    rungs: tuple[Rung, ...]
    question: str = ""
    answer: str = ""
    notes: str = ""
    rivals: tuple[str, ...] = ()
    proposed: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()
    choose: Choice = field(default_factory=Choice)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    accept_packages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def folder(self) -> Path:
        """The folder of the study's results."""
        return self.path.with_suffix("")

    def pairs(self) -> list[tuple[str, str]]:
        """Lists each recipe with each arm that is run in it, without recorded arms."""
        return [
            (recipe, arm)
            for recipe in self.recipes
            for arm, values in self.arms.items()
            if "recorded" not in values and recipe in values.get("recipes", self.recipes)
        ]

    def jobs(self, arms: Iterable[str], seeds: Sequence[int]) -> list[Job]:
        """Lists the runs of some arms, seed by seed, so that every arm has a first result soon."""
        wanted = set(arms)
        return [
            self._job(recipe, arm, seed)
            for seed in seeds
            for recipe, arm in self.pairs()
            if arm in wanted
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
        for key in ("recipes", "with"):
            changed.pop(key, None)
        choices = (*self.recipes[recipe].get("with", ()), *self.arms[arm].get("with", ()))
        words = [word for key, value in changed.items() for word in (key, _as_word(value))]
        return Job(recipe, arm, seed, config_file, (*choices, *words))


def _flat(path: str) -> dict[str, Any]:
    """Reads a YAML file of config keys as ``KEY.KEY: value``."""
    if not Path(path).is_file():
        raise UserError(f"schedule '{path}' does not exist")
    flat: dict[str, Any] = {}
    try:
        content = read_yaml(path)
    except ContentError as error:
        raise UserError(f"schedule '{path}' is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"schedule '{path}': expected KEY: VALUE lines")
    todo = [("", content)]
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
        UserError: no such file, no YAML, an entry that is missing, unknown or of the wrong kind, or
            a name that is not there.
    """
    content = _read(path)
    study = Study(
        path=path,
        title=content["title"],
        recipes=_configs(path, content["recipes"]),
        arms=_configs(path, content["arms"]),
        baseline=content["baseline"],
        rungs=tuple(_rung(path, rung) for rung in content["rungs"]),
        question=content.get("question", "").strip(),
        answer=" ".join(content.get("answer", "").split()),
        notes=content.get("notes", "").strip(),
        rivals=tuple(content.get("rivals", ())),
        proposed=tuple(content.get("proposed", ())),
        rare=tuple(content.get("rare", ())),
        choose=_choice(path, content.get("choose", {})),
        schedule=_flat(content["schedule"]) if "schedule" in content else {},
        overrides=content.get("overrides", {}),
        threads=content.get("threads", 1),
        accept_packages=tuple(content.get("accept_packages", ())),
    )
    _check(study)
    return study


def _read(path: Path) -> dict[str, Any]:
    """Reads the entries of the file, without empty ones."""
    if not path.is_file():
        raise UserError(f"study '{path}' does not exist; see studies/ for the existing ones")
    try:
        content = read_yaml(path)
    except ContentError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping with {', '.join(_REQUIRED)}")
    known = _REQUIRED | _OPTIONAL
    unknown = sorted(map(str, content.keys() - known.keys()))
    given = {key: value for key, value in content.items() if value is not None}
    missing = [key for key in _REQUIRED if key not in given]
    if unknown or missing:
        raise UserError(
            f"{path}: unknown entries {unknown or 'none'}, missing entries {missing or 'none'}; "
            f"known: {', '.join(sorted(known))}"
        )
    _check_kinds(f"{path}", given, known)
    return given


def _check_kinds(where: str, values: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    for key, value in values.items():
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise UserError(f"{where}: {key} must be {_WORDS[kinds[key]]}, found {value!r}")
        if isinstance(value, list) and key in _LISTED:
            listed = _LISTED[key]
            if not all(type(each) is listed for each in value):
                raise UserError(f"{where}: {key} must list {_WORDS[listed]} each, found {value!r}")


def _configs(path: Path, named: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns what each recipe or arm changes in a config; empty if the file has none."""
    given = {name: {} if values is None else values for name, values in named.items()}
    _check_kinds(f"{path}", given, dict.fromkeys(given, dict))
    return given


def _rung(path: Path, values: Any) -> Rung:
    if not isinstance(values, dict) or values.keys() - _RUNG.keys() or not values.get("seeds"):
        raise UserError(f"{path}: a rung has seeds, and may have best and always; found {values}")
    _check_kinds(f"{path}, a rung", values, _RUNG)
    return Rung(tuple(values["seeds"]), values.get("best"), tuple(values.get("always", ())))


def _choice(path: Path, values: Mapping[str, Any]) -> Choice:
    if values.keys() - _CHOICE.keys():
        raise UserError(f"{path}: choose may have datasets and metrics; found {values}")
    _check_kinds(f"{path}, choose", values, _CHOICE)
    return Choice(**{key: tuple(value) for key, value in values.items()})


def _check(study: Study) -> None:
    for recipe, values in study.recipes.items():
        if not isinstance(values.get("config"), str):
            raise UserError(f"{study.path}: recipe '{recipe}' names no config")
    for arm, values in study.arms.items():
        _check_kinds(f"{study.path}, '{arm}'", {"recorded": values.get("recorded", "")}, _ARM)
    for name, values in (*study.recipes.items(), *study.arms.items()):
        lists = {key: values.get(key, []) for key in ("with", "recipes")}
        _check_kinds(f"{study.path}, '{name}'", lists, dict.fromkeys(lists, list))
    for values in (study.recipes, study.arms):
        if not all(isinstance(name, str) for name in values):
            raise UserError(f"{study.path}: names of recipes and arms must be text: {list(values)}")
    always = {arm for rung in study.rungs for arm in rung.always}
    named = {study.baseline, *study.rivals, *study.proposed}
    unknown = sorted((named | always) - study.arms.keys())
    if unknown:
        raise UserError(
            f"{study.path}: baseline, rivals, proposed and always must be arms; no arm "
            f"{', '.join(unknown)} (there are: {', '.join(study.arms)})"
        )
    for arm in study.proposed:
        if arm in (study.baseline, *study.rivals):
            raise UserError(
                f"{study.path}: proposed is '{arm}', which is the baseline or a rival too; "
                "an arm is compared with others"
            )
    for arm, values in study.arms.items():
        strange = set(values.get("recipes", ())) - study.recipes.keys()
        if strange:
            raise UserError(f"{study.path}: arm '{arm}' is for unknown recipes {sorted(strange)}")
