"""Scores of networks whose prior is shifted, as a table, as CSV cells and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from gbw_d2.visualization import COLORS

MEASURES = ("mIoU", "recall", "precision", "rare IoU", "rare recall")


@dataclass(frozen=True)
class Point:
    """Scores, 0 to 100, of a network, or their mean over several, on a test set at one strength.

    Args:
        name: of the network, for people.
        run: its OUTPUT_DIR, or how many runs.
        weights: student or teacher.
        dataset: the test set.
        strength: of the shift.
        scores: by measure; None where there is nothing to average.
    """

    name: str
    run: str
    weights: str
    dataset: str
    strength: float
    scores: Mapping[str, float | None]


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Returns the mean of the values that are not None, or None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def as_cells(point: Point) -> dict[str, Any]:
    """Returns a row of prior_shift.csv."""
    return {
        **{name: getattr(point, name) for name in ("name", "run", "weights", "dataset")},
        **{"strength": point.strength},
        **point.scores,
    }


def averaged(points: Sequence[Point]) -> list[Point]:
    """Averages runs with the same name; keeps the order of names, test sets and strengths."""
    groups: dict[tuple[str, str, str, float], list[Point]] = {}
    for point in points:
        key = (point.name, point.weights, point.dataset, point.strength)
        groups.setdefault(key, []).append(point)
    return [
        Point(
            *(name, str(len(group)), weights, dataset, strength),
            {m: mean_of_known(point.scores[m] for point in group) for m in MEASURES},
        )
        for (name, weights, dataset, strength), group in groups.items()
    ]


def as_text(means: Sequence[Point]) -> str:
    """Writes a Markdown table of the result of :func:`averaged`."""
    head = ("test set", "network", "weights of", "runs", "strength", *MEASURES)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for point in means:
        cells = [point.dataset, point.name.replace("|", "/"), point.weights, point.run]
        numbers = [point.scores[measure] for measure in MEASURES]
        cells += [f"{point.strength:g}", *("-" if n is None else f"{n:.1f}" for n in numbers)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(points: Sequence[Point]) -> Figure:
    """Draws mIoU and rare IoU over rare recall: a row per test set, a line per network."""
    datasets = list(dict.fromkeys(point.dataset for point in points))
    names = list(dict.fromkeys(point.name for point in points))
    figure = Figure(figsize=(9, 0.6 + 3.6 * len(datasets)), layout="constrained")
    grid = figure.subplots(len(datasets), 2, squeeze=False)
    for dataset, line in zip(datasets, grid, strict=True):
        for measure, axes in zip(("mIoU", "rare IoU"), line, strict=True):
            for name, color in zip(names, COLORS, strict=False):
                own = [p for p in points if (p.dataset, p.name) == (dataset, name)]
                own = [p for p in own if None not in (p.scores["rare recall"], p.scores[measure])]
                x, y = ([p.scores[m] for p in own] for m in ("rare recall", measure))
                axes.plot(x, y, color=color, marker="o", markersize=4, linewidth=1.8, label=name)
                for point, across, up in zip(own, x, y, strict=True):
                    axes.annotate(
                        f"{point.strength:g}",
                        (across, up),
                        xytext=(0, 5),
                        textcoords="offset points",
                        ha="center",
                        fontsize=7,
                        color=color,
                    )
            axes.set_xlabel("rare recall")
            axes.set_ylabel(measure)
            axes.grid(alpha=0.25)
            axes.margins(0.08)  # room for the numbers
        line[0].set_title(dataset, loc="left", fontsize=10, fontweight="bold")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure
