#!/usr/bin/env python3
"""Plots each class's share of the labels of a loss term over time, to detect drift.

    uv run -m gbw_studies.plot_label_shares output/toy/semantic_gbw
    uv run -m gbw_studies.plot_label_shares output/none output/gbw --names none GBW

Reads class_weights.csv. The grey line is the class's share among the source's labels of the first
run. If a class's share in mixed images or pseudo-labels departs from that line permanently, the
teacher predicts the class where it does not occur, or no longer predicts it. Writes
plots/label_shares.png into the first folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from gbw_d2.commands import finish
from gbw_d2.errors import UserError
from gbw_d2.visualization import COLORS
from gbw_studies.results.class_log import ClassLog, read_class_log
from gbw_studies.results.plots import write_png

COLUMNS = 4
WINDOWS = 12  # parts of the run; a point is the mean over one of them
LEAST = 0.01  # per cent; smaller shares are drawn here


def shares_over_time(log: ClassLog, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Computes a class's share of the labelled pixels in parts of a run.

    Args:
        log: the log of a run.
        name: of the class.

    Returns:
        (P,) iterations at the middle of the parts, and (P,) shares in per cent; parts without
        labelled pixels are left out.
    """
    own = log.pixels[:, log.names.index(name)] if name in log.names else np.zeros(len(log.pixels))
    edges = np.linspace(0, log.iterations.max(), WINDOWS + 1)
    place = np.clip(np.searchsorted(edges, log.iterations) - 1, 0, WINDOWS - 1)
    total = np.bincount(place, log.pixels.sum(1), WINDOWS)
    there = total > 0
    middles = (edges[:-1] + edges[1:]) / 2
    return middles[there], 100 * np.bincount(place, own, WINDOWS)[there] / total[there]


def draw(
    runs: Sequence[tuple[str, ClassLog]], source: ClassLog, classes: Sequence[str], term: str
) -> Figure:
    """Draws a panel per class, a line per run.

    Args:
        runs: name and log of each.
        source: log of the source's labels.
        classes: to be drawn.
        term: of the runs' logs, for the title.
    """
    count = -(-len(classes) // COLUMNS)
    figure = Figure(figsize=(3.1 * min(COLUMNS, len(classes)), 0.8 + 2.3 * count))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(count, min(COLUMNS, len(classes)), sharex=True, squeeze=False)
    whole = source.pixels.sum()
    for axes, name in zip(panels.flat, classes, strict=False):
        if name in source.names:
            share = 100 * source.pixels[:, source.names.index(name)].sum() / whole
            axes.axhline(max(share, LEAST), color="0.6", linewidth=1.5, label="source labels")
        for (label, log), color in zip(runs, COLORS, strict=False):
            iterations, values = shares_over_time(log, name)
            axes.plot(iterations, values.clip(LEAST), color=color, linewidth=1.8, label=label)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(name, loc="left", fontsize=10)
    for axes in list(panels.flat)[len(classes) :]:
        axes.set_axis_off()
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.supxlabel("iteration", fontsize=10)
    figure.supylabel(f"share of the pixels, term '{term}', %", fontsize=10)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="OUTPUT_DIR", help="folders of runs")
    parser.add_argument("--term", default="mixed", help="loss term; default: mixed")
    parser.add_argument("--names", nargs="+", help="one per run; default: the folders' names")
    parser.add_argument("--classes", nargs="+", help="default: all, the rarest of the source first")
    parser.add_argument("--out", type=Path, help="PNG; default: see above")
    args = parser.parse_args(arguments)
    names = args.names or [run.name for run in args.runs]
    if len(names) != len(args.runs):
        parser.error(f"--names has {len(names)} names for {len(args.runs)} runs")
    if len(names) > len(COLORS):
        parser.error(f"at most {len(COLORS)} runs can be distinguished, found {len(names)}")
    out = args.out or args.runs[0] / "plots" / "label_shares.png"

    def work() -> None:
        logs = [read_class_log(run, args.term) for run in args.runs]
        source = read_class_log(args.runs[0], "source")
        order = np.argsort(source.pixels.sum(0), kind="stable")
        classes = args.classes or [source.names[place] for place in order]
        known = {name for log in logs for name in log.names}
        unknown = [name for name in classes if name not in known]
        if unknown:
            raise UserError(
                f"no class {', '.join(unknown)} (there are: {', '.join(sorted(known))})"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        figure = draw(list(zip(names, logs, strict=True)), source, classes, args.term)
        write_png(figure, out)
        print(f"wrote {out}")

    return finish(work)


if __name__ == "__main__":
    sys.exit(main())
