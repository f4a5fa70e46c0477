"""The numbers in a study's tables and plots: scores, paired differences and cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from gbw_studies.grid.ledger import mean, rare_mean
from gbw_studies.results.rows import Results, Run, Scores

RESAMPLES = 10_000
MIN_SEEDS = 3  # with fewer there is no interval
LEVEL = 0.95


@dataclass(frozen=True)
class Measure:
    """A number that summarises one run on one dataset.

    Args:
        name: shown in tables and, with _ for blanks, in CSV columns.
        score: name of the score.
        rare: whether it is the mean over the study's rare classes, as far as it is defined there;
            otherwise over all classes of the protocol with most classes.
    """

    name: str
    score: str
    rare: bool = False

    def value(self, scores: Scores, rare: Sequence[str]) -> float | None:
        """Returns the number, or None if it is undefined."""
        if not self.rare:
            return scores.leading(self.score)
        return rare_mean(scores.classes, self.score, rare)

    def difference(self, ours: Scores, base: Scores, rare: Sequence[str]) -> float | None:
        """Returns ours minus base, over the rare classes that are defined in both."""
        if not self.rare:
            return _minus(ours.leading(self.score), base.leading(self.score))
        return mean(
            [
                _minus(
                    ours.classes.get(name, {}).get(self.score),
                    base.classes.get(name, {}).get(self.score),
                )
                for name in rare
            ]
        )


MEASURES = (
    Measure("mIoU", "mIoU"),
    Measure("recall", "recall"),
    Measure("rare IoU", "IoU", rare=True),
    Measure("rare recall", "recall", rare=True),
    Measure("PQ", "PQ"),
    Measure("rare PQ", "PQ", rare=True),
)


@dataclass(frozen=True)
class Difference:
    """The difference of two arms, over the pairs of runs that both have.

    Args:
        values: (recipe, seed) -> difference.
        interval: of the mean; None below MIN_SEEDS seeds.
    """

    values: Mapping[tuple[str, int], float]
    interval: tuple[float, float] | None

    @property
    def mean(self) -> float:
        """The mean over the pairs."""
        return statistics.mean(self.values.values())

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


@dataclass(frozen=True)
class Row:
    """An arm in one recipe and dataset.

    Args:
        seeds: in ascending order.
        values: measure name -> one value per seed.
        differences: measure name -> paired difference, if there is a common seed.
        classes: class name -> score name -> one value per seed.
        step_seconds: mean over seeds, as is peak_memory_mb.
        step_ratio: step_seconds relative to the baseline's; likewise memory_ratio.
    """

    arm: str
    role: str
    seeds: tuple[int, ...]
    values: Mapping[str, Sequence[float | None]]
    differences: Mapping[str, Difference]
    classes: Mapping[str, Mapping[str, Sequence[float | None]]]
    step_seconds: float | None
    peak_memory_mb: float | None
    step_ratio: float | None
    memory_ratio: float | None


@dataclass(frozen=True)
class Section:
    """One dataset in one recipe: a row per arm that has run, in the study's order."""

    recipe: str
    dataset: str
    rows: tuple[Row, ...]

    def measures(self) -> list[Measure]:
        """Returns the measures that some run has."""
        return [
            m
            for m in MEASURES
            if any(v is not None for row in self.rows for v in row.values[m.name])
        ]

    def scores(self) -> list[str]:
        """Returns the scores that some class has, IoU and recall first."""
        there = [
            score
            for row in self.rows
            for scores in row.classes.values()
            for score, values in scores.items()
            if any(v is not None for v in values)
        ]
        return [s for s in dict.fromkeys(("IoU", "recall", *there)) if s in there]

    def row(self, arm: str) -> Row | None:
        """Returns an arm's row, or None if it has not run."""
        return next((row for row in self.rows if row.arm == arm), None)


def pair_count(differences: Mapping[str, Difference]) -> int:
    """Returns the number of pairs of runs behind an arm's differences, over all measures."""
    return max((len(difference.values) for difference in differences.values()), default=0)


def deviation(values: Sequence[float | None]) -> float | None:
    """Computes the sample standard deviation of the defined values; None below two values."""
    defined = [v for v in values if v is not None]
    return statistics.stdev(defined) if len(defined) > 1 else None


def _minus(ours: float | None, base: float | None) -> float | None:
    return None if ours is None or base is None else ours - base


@cache
def _resamples(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def bootstrap_interval(values: Mapping[tuple[str, int], float]) -> tuple[float, float] | None:
    """Computes the percentile bootstrap interval of a mean (Efron and Tibshirani 1993, 13.3).

    Whole seeds are resampled, because runs with the same seed are correlated.

    Args:
        values: (recipe, seed) -> value.

    Returns:
        Lower and upper end; None for fewer than MIN_SEEDS seeds.
    """
    seeds = sorted({seed for _, seed in values})
    if len(seeds) < MIN_SEEDS:
        return None
    own = [[value for (_, seed), value in values.items() if seed == one] for one in seeds]
    drawn = _resamples(len(seeds))
    totals = np.asarray([sum(group) for group in own])[drawn].sum(1)
    counts = np.asarray([len(group) for group in own])[drawn].sum(1)
    low, high = np.quantile(totals / counts, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def sections(results: Results, seeds: Sequence[int] | None = None) -> list[Section]:
    """Summarises a study.

    Args:
        results: of a study.
        seeds: the seeds to use; None for all.

    Returns:
        A section per recipe and dataset, in the study's order; those without runs are left out.
    """
    made = []
    shown = [run for run in results.runs if seeds is None or run.seed in seeds]
    for recipe in results.study.recipes:
        runs = [run for run in shown if run.recipe == recipe]
        for dataset in dict.fromkeys(name for run in runs for name in run.scores):
            scored = [run for run in runs if dataset in run.scores]
            made.append(_section(results, recipe, dataset, scored))
    return made


def _section(results: Results, recipe: str, dataset: str, runs: Sequence[Run]) -> Section:
    by_arm = {
        arm: sorted((r for r in runs if r.arm == arm), key=lambda r: r.seed)
        for arm in results.study.arms
    }
    base = by_arm[results.study.baseline]
    rows = [_row(results, dataset, ours, base) for ours in by_arm.values() if ours]
    return Section(recipe, dataset, tuple(rows))


def _row(results: Results, dataset: str, ours: Sequence[Run], base: Sequence[Run]) -> Row:
    scores = [run.scores[dataset] for run in ours]
    step, memory = mean([r.step_seconds for r in ours]), mean([r.peak_memory_mb for r in ours])
    arm, rare = ours[0].arm, results.study.rare
    is_baseline = arm == results.study.baseline
    return Row(
        arm=arm,
        role=results.role(arm),
        seeds=tuple(run.seed for run in ours),
        values={m.name: [m.value(s, rare) for s in scores] for m in MEASURES},
        differences={} if is_baseline else paired_differences(rare, dataset, ours, base),
        classes=_classes(scores),
        step_seconds=step,
        peak_memory_mb=memory,
        step_ratio=_over(step, mean([r.step_seconds for r in base])),
        memory_ratio=_over(memory, mean([r.peak_memory_mb for r in base])),
    )


def _over(ours: float | None, base: float | None) -> float | None:
    return ours / base if ours is not None and base else None


def _classes(scores: Sequence[Scores]) -> dict[str, dict[str, list[float | None]]]:
    pairs = dict.fromkeys((c, s) for one in scores for c, row in one.classes.items() for s in row)
    table: dict[str, dict[str, list[float | None]]] = {}
    for name, score in pairs:
        values = [one.classes.get(name, {}).get(score) for one in scores]
        table.setdefault(name, {})[score] = values
    return table


def paired_differences(
    rare: Sequence[str], dataset: str, ours: Sequence[Run], base: Sequence[Run]
) -> dict[str, Difference]:
    """Subtracts the runs of one arm from those of another that have the same recipe and seed.

    Args:
        rare: names of the rare classes.
        dataset: on which both are scored.
        ours: runs of the arm.
        base: runs of the arm that is subtracted.

    Returns:
        Measure name -> differences; without those that no pair has.
    """
    base_scores = {(run.recipe, run.seed): run.scores[dataset] for run in base}
    made = {}
    for measure in MEASURES:
        values = {
            pair: measure.difference(run.scores[dataset], base_scores[pair], rare)
            for run in ours
            if (pair := (run.recipe, run.seed)) in base_scores
        }
        defined = {pair: value for pair, value in values.items() if value is not None}
        if defined:
            made[measure.name] = Difference(defined, bootstrap_interval(defined))
    return made


def leading_datasets(study_sections: Sequence[Section]) -> list[Section]:
    """Returns the section of each recipe's first dataset."""
    first: dict[str, Section] = {}
    for section in study_sections:
        first.setdefault(section.recipe, section)
    return list(first.values())


def chosen_arms(results: Results, shown: Sequence[Section], count: int) -> list[str]:
    """Chooses arms to look at class by class: the baseline, the best rivals and the best others.

    The study's first rival and the arms that it proposes come first. Best is the
    greatest mean difference to the baseline, over mIoU, rare IoU and recipes. Rivals take half of
    the places that the baseline leaves, more where there are not so many others.

    Args:
        results: of a study.
        shown: the first dataset of each recipe.
        count: at most so many arms.

    Returns:
        Arms in the study's order, the baseline first.
    """

    def gain(arm: str) -> float:
        rows = [row for section in shown if (row := section.row(arm)) is not None]
        found = [r.differences[m] for r in rows for m in ("mIoU", "rare IoU") if m in r.differences]
        return statistics.mean(d.mean for d in found) if found else -math.inf

    study = results.study
    ran = {row.arm for section in shown for row in section.rows}
    ranked = [arm for arm in study.arms if arm in ran and arm != study.baseline]
    first = {*study.rivals[:1], *study.proposed}
    ranked.sort(key=lambda arm: (arm in first, gain(arm)), reverse=True)
    rivals = [arm for arm in ranked if results.role(arm) == "rival"]
    others = [arm for arm in ranked if results.role(arm) != "rival"]
    places = count - 1
    kept_rivals = rivals[: max(places // 2, places - len(others))]
    kept = {*kept_rivals, *others[: places - len(kept_rivals)]}
    return [study.baseline, *(arm for arm in study.arms if arm in kept)]
