#!/usr/bin/env python3
"""Plots class weights over the classes' shares of the pixels, to compare with frequencies.

    uv run -m gbw_studies.plot_weights_by_share output/toy/semantic_gbw
    uv run -m gbw_studies.plot_weights_by_share output/toy/gbw_seed_* --term source --phases 4
    uv run -m gbw_studies.plot_weights_by_share output/plain output/gbw --of gradient_share

Reads class_weights.csv and averages over all runs, or over the runs with the same name in --names.
Both axes are logarithmic, so that weights which are a power of the share lie on a line; its slope
and the quality of the fit are printed, and shown in the picture. --of measure draws the measure of
which the weights are made. --of gradient_share draws weight x share x measure, which for class
gradients (docs/equations.md 2b and 2d) is the size of the class's part of a step. Writes
plots/weights_by_share.png (measures_..., gradient_shares_...) into the first folder.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from gbw_d2.commands import finish
from gbw_d2.errors import UserError
from gbw_d2.visualization import COLORS
from gbw_studies.results.class_log import read_class_log
from gbw_studies.results.plots import write_png

# Distance from the line above which a class is named in the picture, in logarithms; height of a
# name relative to the range of values.
NAMED, LINE = 0.15, 0.043
NAME_WIDTH = 1.0  # names whose shares' logarithms differ by more than this cannot overlap
COLUMNS = 2

# Name -> function of class weight, measure and share of the pixels, and label of the axis.
QUANTITIES: dict[str, tuple[Callable[[np.ndarray, np.ndarray, float], np.ndarray], str]] = {
    "weight": (lambda weight, measure, share: weight, "class weight"),
    "measure": (lambda weight, measure, share: measure, "measure"),
    "gradient_share": (
        lambda weight, measure, share: weight * measure * share,
        "weight x share x measure",
    ),
}


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Args:
        start: its first iteration.
        end: its last iteration.
        values: class name -> mean over the batches that contain the class.
        exponent: b of the fit value = a share ** b; None if it cannot be fitted.
        determination: R squared of this fit of the logarithms.
    """

    start: int
    end: int
    values: Mapping[str, float]
    exponent: float | None
    determination: float | None


@dataclass(frozen=True)
class Group:
    """Runs that are averaged.

    Args:
        name: shown in the picture; "" if there is one group.
        phases: parts of the runs.
        shares: class name -> share of the pixels, 0..1.
    """

    name: str
    phases: Sequence[Phase]
    shares: Mapping[str, float]


def read_values(
    folders: Sequence[Path], term: str, of: str = "weight"
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Reads the values of the semantic head that are drawn.

    Args:
        folders: OUTPUT_DIRs of runs with the same classes.
        term: the loss term.
        of: a name in QUANTITIES.

    Returns:
        Class name -> (N, 2) float64, iteration and value of each logged batch that contains the
        class; class name -> share of the pixels of the logged batches, 0..1, in descending order.

    Raises:
        UserError: a run that cannot be read, or runs without measures if these are needed.
    """
    logs = [read_class_log(folder, term) for folder in folders]
    runs = ", ".join(map(str, folders))
    if len({log.names for log in logs}) > 1:
        raise UserError(f"{runs}: the runs' classes differ")
    pixels = dict(zip(logs[0].names, sum(log.pixels.sum(0) for log in logs), strict=True))
    total = sum(pixels.values())
    order = sorted(pixels, key=lambda name: -pixels[name])
    shares = {name: pixels[name] / total for name in order if pixels[name] > 0}
    if not shares:
        raise UserError(f"{runs}: no logged batch shows a class")
    value_of = QUANTITIES[of][0]
    found = {}
    for name, share in shares.items():
        tables = []
        for log in logs:
            at = log.names.index(name)
            values = value_of(log.weights[:, at], log.measures[:, at], share)
            there = (log.pixels[:, at] > 0) & np.isfinite(values)
            tables.append(np.stack([log.iterations, values], 1)[there])
        found[name] = np.concatenate(tables)
    if not any(len(table) for table in found.values()):
        what = of.replace("_", " ")
        raise UserError(f"{runs}: no {what} was logged, because the scheme has no measure")
    return found, shares


def phases(
    values: Mapping[str, np.ndarray], shares: Mapping[str, float], count: int
) -> list[Phase]:
    """Cuts runs into parts of equal length and fits a power law of the share to each.

    Args:
        values: class name -> (N, 2), iteration and value.
        shares: class name -> share of the pixels, 0..1.
        count: of parts, >= 1.
    """
    last = max(table[:, 0].max() for table in values.values() if len(table))
    edges = np.linspace(0, last, count + 1).round().astype(int)
    found = []
    for start, end in pairwise(edges):
        within = {n: t[(t[:, 0] > start) & (t[:, 0] <= end), 1] for n, t in values.items()}
        means = {name: float(part.mean()) for name, part in within.items() if len(part)}
        fit = _power_law([shares[n] for n in means], list(means.values()))
        found.append(Phase(int(start) + 1, int(end), means, *fit))
    return found


def _power_law(
    shares: Sequence[float], values: Sequence[float]
) -> tuple[float, float] | tuple[None, None]:
    # 0 has no logarithm, and with fewer than three classes any line fits.
    there = [(s, v) for s, v in zip(shares, values, strict=True) if v > 0]
    if len(there) < 3:
        return None, None
    x, y = np.log(np.asarray(there)).T
    spread = ((y - y.mean()) ** 2).sum()
    slope, offset = np.polyfit(x, y, 1)
    left = ((y - slope * x - offset) ** 2).sum()
    return float(slope), float(1 - left / spread) if spread > 0 else 1.0


def draw(groups: Sequence[Group], of: str = "weight") -> Figure:
    """Draws a panel per phase: a dot per class, the fitted power law, names of what is off it.

    Args:
        groups: of several, each has a row of its own, and its own phases.
        of: a name in QUANTITIES.
    """
    phases_of_each = max(len(group.phases) for group in groups)
    columns = phases_of_each if len(groups) > 1 else min(COLUMNS, phases_of_each)
    rows = sum(math.ceil(len(group.phases) / columns) for group in groups)
    figure = Figure(figsize=(5.6 * columns, 4.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    drawn = [(group, phase) for group in groups for phase in group.phases]
    heights = [math.log(v) for _, phase in drawn for v in phase.values.values() if v > 0]
    line = LINE * (max(heights) - min(heights)) if heights else LINE
    for axes, (group, phase) in zip(panels.flat, drawn, strict=False):
        _panel(axes, phase, group, line)
        if of == "weight":
            axes.axhline(1, color=COLORS[-1], linewidth=1)
    for axes in panels.flat[len(drawn) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel(f"{QUANTITIES[of][1]}, mean over the phase")
    for axes in panels[-1]:
        axes.set_xlabel("share of the labelled pixels")
    return figure


def _panel(axes: Axes, phase: Phase, group: Group, line_height: float) -> None:
    names = [name for name, value in phase.values.items() if value > 0]
    x = np.asarray([group.shares[name] for name in names])
    y = np.asarray([phase.values[name] for name in names])
    axes.set_xscale("log")
    axes.set_yscale("log")
    line = np.ones_like(x)
    title = f"{group.name}, " * bool(group.name) + f"iterations {phase.start} to {phase.end}"
    if phase.exponent is not None:
        line = np.exp(np.log(y).mean() + phase.exponent * (np.log(x) - np.log(x).mean()))
        axes.plot(x, line, color=COLORS[1], linewidth=1.5, zorder=1)
        title += f"\nshare ^ {phase.exponent:.2f}, R^2 {phase.determination:.2f}"
    axes.scatter(x, y, s=22, color=COLORS[0], zorder=2)
    distance = np.log(y / line)
    dots = list(zip(names, x.tolist(), y.tolist(), distance, strict=True))
    for side in (1, -1):
        _name(axes, [dot[:3] for dot in dots if side * dot[3] > NAMED], side, line_height)
    axes.set_title(title, fontsize=10)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.2, y=0.1)


def _name(
    axes: Axes, dots: Sequence[tuple[str, float, float]], side: int, line_height: float
) -> None:
    """Names dots to the right where they are above the line (side 1), to the left below (-1)."""
    placed: list[tuple[float, float]] = []
    for name, share, value in sorted(dots, key=lambda dot: dot[2]):
        place, height = math.log(share), math.log(value)
        near = [at for other, at in placed if abs(other - place) < NAME_WIDTH]
        height = max([height, *(at + line_height for at in near)])
        placed.append((place, height))
        axes.annotate(
            *(name, (share, value)),
            xytext=(share * math.exp(side * 0.12), math.exp(height)),
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=8,
        )


def report(group: Group) -> str:
    """Writes a Markdown table: a row per class, a column per phase, the fits below."""
    found, shares = group.phases, group.shares

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.4f}"

    heads = [f"{phase.start}-{phase.end}" for phase in found]
    lines = [f"| class | share, % | {' | '.join(heads)} |", "|---" * (len(found) + 2) + "|"]
    for name, share in shares.items():
        cells = " | ".join(text(phase.values.get(name)) for phase in found)
        lines.append(f"| {name} | {100 * share:.2f} | {cells} |")
    for label, values in (
        ("exponent of the share", [phase.exponent for phase in found]),
        ("R^2 of that", [phase.determination for phase in found]),
    ):
        lines.append(f"| {label} | | {' | '.join(map(text, values))} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, prints the table and writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="OUTPUT_DIR", help="folders of runs")
    parser.add_argument("--term", default="source", help="loss term; default: source")
    parser.add_argument(
        "--of", choices=QUANTITIES, default="weight", help="quantity; default: weight"
    )
    parser.add_argument("--phases", type=int, default=4, help="parts of equal length; default: 4")
    parser.add_argument("--out", type=Path, help="PNG; default: see above")
    parser.add_argument(
        "--names", nargs="+", help="one per run; runs with the same name are averaged"
    )
    args = parser.parse_args(arguments)
    if args.phases < 1:
        parser.error(f"--phases is {args.phases}; expected 1 or more")
    names = args.names or [""] * len(args.runs)
    if len(names) != len(args.runs):
        parser.error(f"--names has {len(names)} names for {len(args.runs)} runs")
    out = args.out or args.runs[0] / "plots" / f"{args.of}s_by_share.png"

    def work() -> None:
        groups = []
        for name in dict.fromkeys(names):
            runs = [run for run, its in zip(args.runs, names, strict=True) if its == name]
            values, shares = read_values(runs, args.term, args.of)
            groups.append(Group(name, phases(values, shares, args.phases), shares))
            print(f"{name}\n\n{report(groups[-1])}\n" if name else report(groups[-1]))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_png(draw(groups, args.of), out)
        print(f"\nwrote {out}")

    return finish(work)


if __name__ == "__main__":
    sys.exit(main())
