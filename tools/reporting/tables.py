"""Tables of scores: means per test set, and the classes of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plot_run import RARE_SHARE

from gbw_d2.results.reader import Run
from reporting.page import table

_MEANS = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st", "mIoU", "recall", "precision", "AP", "AP50")
_CLASS_SCORES = ("IoU", "recall", "precision", "PQ")
# Smaller differences are marked neither as better nor as worse.
_LEVEL = 0.5


def means(names: Sequence[str], results: Sequence[Mapping[str, Any]], protocol: str) -> str:
    """Makes the table of mean scores, one row per run and test set."""
    metrics = [r["datasets"] for r in results]
    found = {key for each in metrics for row in each.values() for key in row}
    columns = [name for name in _MEANS if f"{name}_{protocol}" in found]
    rows = []
    for run, datasets in zip(names, metrics, strict=True):
        for dataset, row in datasets.items():
            cells = [_number(row.get(f"{column}_{protocol}")) for column in columns]
            rows.append(("", [("", run), ("", dataset), *(("", cell) for cell in cells)]))
    return table(["run", "test set", *columns], rows)


def classes(runs: Sequence[Run], protocol: str) -> str:
    """Makes the table of classes: the first run's scores, and the differences of the others."""
    first, others = runs[0].scores[protocol], runs[1:]
    known = {key for run in runs for row in run.scores[protocol].values() for key in row}
    columns = [score for score in _CLASS_SCORES if score in known]
    head = ["class", "share of pixels", *columns]
    head += [f"{score}, {run.name}" for run in others for score in columns]
    rows = []
    for name, row in first.items():
        share = row.get("share")
        cells = [("", name), ("", "-" if share is None else f"{share:.2f} %")]
        cells += [("", _number(row.get(score))) for score in columns]
        for run in others:
            other = run.scores[protocol].get(name, {})
            cells += [_difference(row.get(score), other.get(score)) for score in columns]
        rare = share is not None and share < RARE_SHARE
        rows.append(("rare" if rare else "", cells))
    return table(head, rows)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.1f}"


def _difference(before: Any, after: Any) -> tuple[str, str]:
    if before is None or after is None:
        return "", _number(after)
    change = after - before
    kind = "better" if change > _LEVEL else "worse" if change < -_LEVEL else ""
    return kind, f"{after:.1f} ({change:+.1f})"
