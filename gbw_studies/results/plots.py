"""A study's pictures: differences of all arms, and classes of some."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from gbw_d2.files.atomic import write_atomically
from gbw_d2.visualization import COLORS
from gbw_studies.grid.ledger import mean
from gbw_studies.results.comparison import Difference, Row, Section, deviation
from gbw_studies.results.rows import Results

COMPARED = ("mIoU", "rare IoU", "rare recall")
CLASS_SCORES = ("IoU", "recall")
BLUE, ORANGE, GREY = COLORS[0], COLORS[1], COLORS[-1]
LEAST_SPAN = 0.1  # points, of an axis
MIN_REACH = 5.0  # points below 0 that arms.png always shows
MAX_ARMS = len(COLORS)
MAX_LEGEND_LETTERS = 140  # on one line
DPI, PALETTE = 110, 64


def draw_arms(results: Results, shown: Sequence[Section]) -> Figure:
    """Draws each arm's paired differences: dot and interval, and small dots for single seeds."""
    counts = [sum(1 for row in section.rows if row.role != "baseline") for section in shown]
    figure = Figure(figsize=(11, 1.5 + sum(0.27 * n + 0.75 for n in counts)), layout="constrained")
    grid = figure.subplots(
        *(len(shown), len(COMPARED)),
        sharex="col",
        sharey="row",
        squeeze=False,
        gridspec_kw={"height_ratios": [max(1, n) + 1 for n in counts]},
    )
    for section, line in zip(shown, grid, strict=True):
        rows = [row for row in section.rows if row.role != "baseline"]
        for measure, axes in zip(COMPARED, line, strict=True):
            _difference_panel(axes, rows, measure, _edge(shown, measure))
        line[0].set_title(
            f"{section.recipe}, {section.dataset}", loc="left", fontsize=10, fontweight="bold"
        )
        line[0].set_yticks(range(len(rows)), [row.arm for row in rows], fontsize=9)
        line[0].set_ylim(len(rows) - 0.4, -0.6)
        for row, label in zip(rows, line[0].get_yticklabels(), strict=True):
            label.set_color(_role_color(row))
    for measure, axes in zip(COMPARED, grid[-1], strict=True):
        axes.set_xlabel(f"{measure}, points")
    handles = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2, label="mean and 95 % interval"),
        Line2D([], [], color=ORANGE, marker="o", linewidth=2, label="rival"),
        Line2D(
            *([], []),
            color=BLUE,
            marker="o",
            markerfacecolor="white",
            linewidth=2,
            label="interval holds 0, or fewer than 3 seeds",
        ),
        Line2D([], [], color="0.55", marker="o", markersize=2.2, linestyle="", label="one seed"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    study = results.study
    figure.suptitle(f"{study.title}: arm minus '{study.baseline}', same seed", fontsize=12)
    return figure


def _difference_panel(axes: Axes, rows: Sequence[Row], measure: str, edge: float) -> None:
    axes.axvline(0, color="0.4", linewidth=1, zorder=1)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, labelbottom=True)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    for place, row in enumerate(rows):
        if place % 2:
            axes.axhspan(place - 0.5, place + 0.5, color="0.965", zorder=0, linewidth=0)
        difference = row.differences.get(measure)
        if difference is not None:
            _draw_difference(axes, place, difference, _role_color(row), edge)
    low, high = axes.get_xlim()
    if high - low < LEAST_SPAN:
        # If no arm differs, rounding errors must not fill the panel.
        axes.set_xlim(-LEAST_SPAN / 2, LEAST_SPAN / 2)


def _edge(shown: Sequence[Section], measure: str) -> float:
    """Returns the lower end of a column, so that collapsed arms leave room for the others."""
    found = [row.differences.get(measure) for section in shown for row in section.rows]
    values = [value for d in found if d is not None for value in d.values.values()]
    return -max(MIN_REACH, 1.3 * max(values, default=0.0))


def _draw_difference(
    axes: Axes, place: int, difference: Difference, color: str, edge: float
) -> None:
    values = np.array([*difference.values.values()])
    for beyond, marker in ((values < edge, "<"), (values >= edge, "o")):
        at = np.clip(values[beyond], edge, None)
        axes.plot(at, np.full(len(at), place + 0.26), marker, color="0.55", markersize=2.2)
    if difference.mean < edge:
        axes.plot(edge, place, "<", color=color, markersize=7)
        axes.annotate(
            *(f"{difference.mean:+.0f}", (edge, place)),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=color,
        )
        return
    if difference.interval is not None:
        ends = np.clip(difference.interval, edge, None)
        axes.plot(ends, [place, place], color=color, linewidth=2, solid_capstyle="butt")
    face = color if difference.excludes_zero else "white"
    axes.plot(difference.mean, place, "o", color=color, markerfacecolor=face, markersize=6)


def _role_color(row: Row) -> str:
    return ORANGE if row.role == "rival" else BLUE


def draw_classes(results: Results, shown: Sequence[Section], arms: Sequence[str]) -> Figure:
    """Draws IoU and recall per class: dots at the means, lines of one standard deviation."""
    panels = [
        (section, score) for section in shown for score in CLASS_SCORES if score in section.scores()
    ]
    figure = Figure(figsize=(12, 1.6 + 2.1 * len(panels)), layout="constrained")
    grid = figure.subplots(max(1, len(panels)), 1, squeeze=False)[:, 0]
    for (section, score), axes in zip(panels, grid, strict=False):
        _class_panel(axes, results, section, score, arms)
    handles = [
        Line2D([], [], color=_arm_color(results, arms, arm), marker="o", label=_named(results, arm))
        for arm in arms
    ]
    handles.append(Line2D([], [], linestyle="", label="*  rare"))
    # One line if it fits.
    letters = sum(len(str(handle.get_label())) + 8 for handle in handles)
    columns = 4 if letters > MAX_LEGEND_LETTERS else len(handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    title = f"{results.study.title}: classes, mean ± standard deviation over seeds"
    figure.suptitle(title, fontsize=12)
    return figure


def _class_panel(
    axes: Axes, results: Results, section: Section, score: str, arms: Sequence[str]
) -> None:
    rows = [row for arm in arms if (row := section.row(arm)) is not None]
    names = list(dict.fromkeys(name for row in rows for name in row.classes))
    rare = results.study.rare
    for place, name in enumerate(names):
        if name in rare:
            axes.axvspan(place - 0.5, place + 0.5, color="#FFF3D6", zorder=0, linewidth=0)
    for order, row in enumerate(rows):
        values = [row.classes.get(name, {}).get(score, ()) for name in names]
        means = np.array([mean(v) for v in values], dtype=float)  # None becomes NaN
        spreads = np.array([deviation(v) or 0.0 for v in values])
        places = np.arange(len(names)) + (order - (len(rows) - 1) / 2) * 0.8 / max(1, len(rows))
        color = _arm_color(results, arms, row.arm)
        axes.vlines(places, means - spreads, means + spreads, color=color, linewidth=1.4)
        axes.plot(places, means, "o", color=color, markersize=4.5)
    axes.set_xticks(range(len(names)), [f"{n} *" if n in rare else n for n in names])
    axes.tick_params(axis="x", labelrotation=25, labelsize=8)
    for label in axes.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 104)
    axes.set_ylabel(f"{score} (%)")
    axes.set_title(f"{section.recipe}, {section.dataset}", loc="left", fontsize=10)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _named(results: Results, arm: str) -> str:
    role = results.role(arm)
    return f"{arm} ({role})" if role else arm


def _arm_color(results: Results, arms: Sequence[str], arm: str) -> str:
    if arm == results.study.baseline:
        return GREY
    return COLORS[[a for a in arms if a != results.study.baseline].index(arm)]


def write_png(figure: Figure, path: Path) -> None:
    """Writes a figure atomically, with few colours, which takes a third of the bytes."""
    drawn, content = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(PALETTE).save(content, format="png", optimize=True)
    write_atomically(path, content.getvalue())
