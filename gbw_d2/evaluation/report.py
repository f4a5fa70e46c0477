"""Text tables of scores, with rare classes marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gbw_d2.results.writer import PerClass

RARE_SHARE = 1.0  # per cent of the labelled pixels; the table marks classes below it

_SUMMARY = (
    *("PQ", "SQ", "RQ", "PQ_th", "PQ_st", "PQ_classes"),
    *("mIoU", "recall", "precision", "mIoU_classes", "AP", "AP50", "AP_classes"),
)
_COUNTS = ("PQ_classes", "mIoU_classes", "AP_classes", "TP", "FP", "FN")
_PER_CLASS = ("share", "IoU", "recall", "precision", "PQ", "SQ", "RQ", "TP", "FP", "FN", "AP")


def merge_per_class(*parts: PerClass) -> PerClass:
    """Joins the ``per_class`` of several evaluators into one, row by row."""
    merged: PerClass = {}
    for part in parts:
        for protocol, rows in part.items():
            for name, row in rows.items():
                merged.setdefault(protocol, {}).setdefault(name, {}).update(row)
    return merged


def format_table(
    metrics: Mapping[str, Any], per_class: PerClass, protocol: str | None = None, title: str = ""
) -> str:
    """Returns the scores as a plain-text table.

    Args:
        metrics: metrics by name, with their protocol in the name.
        per_class: protocol -> class name -> scores.
        protocol: whose classes are listed one by one; None for the first of ``per_class``.
        title: a first line, such as the test set's name.

    Returns:
        One line per protocol, then one line per class; ``*`` marks rare classes, ``-`` undefined
        scores.

    Raises:
        ValueError: ``per_class`` does not have the protocol.
    """
    names = [c for c in _SUMMARY if any(f"{c}_{p}" in metrics for p in per_class)]
    summary = [[p, *(_cell(metrics.get(f"{c}_{p}"), c) for c in names)] for p in per_class]
    lines = [title] if title else []
    lines += _align([["protocol", *names], *summary])
    shown = next(iter(per_class), None) if protocol is None else protocol
    if shown is None:
        return "\n".join(lines)
    if shown not in per_class:
        raise ValueError(f"no scores under protocol '{shown}' (there are: {', '.join(per_class)})")
    classes = per_class[shown]
    keys = [k for k in _PER_CLASS if any(k in row for row in classes.values())]
    body = []
    for name, row in classes.items():
        body.append([_mark_rare(name, row), *(_cell(row.get(k), k) for k in keys)])
    lines += ["", *_align([[f"class ({shown})", *keys], *body])]
    if any(cells[0].endswith("*") for cells in body):
        lines.append(f"* below {RARE_SHARE:g} % of the labelled pixels")
    return "\n".join(lines)


def _mark_rare(name: str, row: Mapping[str, Any]) -> str:
    share = row.get("share")
    return f"{name} *" if share is not None and share < RARE_SHARE else name


def _cell(value: Any, key: str) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if key in _COUNTS else f"{value:.2f}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [c.rjust(w) for c, w in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return lines
