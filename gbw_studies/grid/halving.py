"""Successive halving: selects the arms that get further seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from gbw_studies.grid.ledger import Row, run_name, score
from gbw_studies.grid.plan import Choice, Rung, Study

# The score of a run that ended with an error, in every metric.
FAILED = 0.0


def arms_of(study: Study, rung: Rung, rows: Sequence[Row]) -> list[str]:
    """Returns the arms of a rung, given the results of the rungs before it.

    Args:
        study: the study.
        rung: one of its rungs.
        rows: results of the runs of all rungs before it.
    """
    if rung.best is None:
        return list(study.arms)
    fixed = {study.baseline, *rung.always}
    ranks = ranking(study, rows)
    best = [arm for arm, _ in ranks if arm not in fixed][: rung.best]
    return [arm for arm in study.arms if arm in fixed or arm in best]


def ranking(study: Study, rows: Sequence[Row]) -> list[tuple[str, float]]:
    """Orders the arms by the mean paired difference to the baseline, best first.

    An arm without a common seed with the baseline is left out.
    """
    gains = {arm: gain(study, arm, rows) for arm in study.arms}
    known = [(arm, value) for arm, value in gains.items() if value is not None]
    return sorted(known, key=lambda pair: -pair[1])


def gain(study: Study, arm: str, rows: Sequence[Row]) -> float | None:
    """Returns an arm's mean difference to the baseline of the same recipe and seed.

    All recipes, test sets and metrics of the study's choice have equal weight; an arm that exists
    for some recipes only is ranked by those.
    """
    by_run = {run_name(row): row for row in rows}
    per_recipe = []
    for recipe in study.recipes:
        pairs = [
            (row, by_run[recipe, study.baseline, seed])
            for (r, a, seed), row in by_run.items()
            if (r, a) == (recipe, arm) and (recipe, study.baseline, seed) in by_run
        ]
        if pairs:
            per_recipe.append(statistics.mean(_difference(study, *pair) for pair in pairs))
    return statistics.mean(per_recipe) if per_recipe else None


def _difference(study: Study, row: Row, baseline: Row) -> float:
    return _value(study.choose, row, study.rare) - _value(study.choose, baseline, study.rare)


def _value(choose: Choice, row: Row, rare: Sequence[str]) -> float:
    if "error" in row:
        return FAILED
    datasets = choose.datasets or tuple(row["scores"])
    values = [
        score(row, dataset, metric, rare) for dataset in datasets for metric in choose.metrics
    ]
    return statistics.mean(FAILED if value is None else value for value in values)
