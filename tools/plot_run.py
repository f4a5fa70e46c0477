"""Plots class weights over time, loss curves and per-class scores of runs, as PNG and SVG.

    uv run tools/plot_run.py output/toy/panoptic_gbw
    uv run tools/plot_run.py output/source_only output/gbw --out comparison

All runs are drawn in the same axes, each in one colour and named by its folder. The files weights.*
(one per head), losses.* and classes.* are written to plots/ in the first folder, or to --out. Data
that an unfinished run lacks are listed and left out.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gbw_d2 import passive_waiting  # noqa: F401  # isort: skip  (before torch)

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from gbw_d2.commands import finish
from gbw_d2.errors import UserError
from gbw_d2.files.atomic import replacing
from gbw_d2.results.reader import LOSSES, SCORES, WEIGHTS, Curve, Run, read_run, run_names
from gbw_d2.visualization import COLORS

RARE_SHARE = 1.0  # per cent of the labelled pixels, as in gbw_d2/evaluation/report.py
STYLES = ("-", "--", ":", "-.")  # one per loss term
MIN_SHOWN_WEIGHT = 1 / 16
MAX_RECALLS = 4  # number of runs whose recall fits above a panel of weights
MAX_NUMBERS = 4  # number of bars per class above which there is no room for numbers
BAR_SCORES = ("IoU", "recall", "PQ")


def smooth(curve: Curve, points: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Computes running quantiles over a fifteenth of the run, and over less at its ends.

    Args:
        curve: a noisy curve.
        points: largest number of positions, which are evenly spaced.

    Returns:
        (P,) iterations, and (3, P): the 10 % quantile, the median and the 90 % quantile.
    """
    iterations, values = curve
    reach = len(values) // 30
    padded = np.pad(values, reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    shown = np.unique(np.linspace(0, len(values) - 1, min(points, len(values))).round().astype(int))
    return iterations[shown], np.nanquantile(windows[shown], (0.1, 0.5, 0.9), axis=1)


def rare_classes(runs: Sequence[Run], protocol: str | None) -> set[str]:
    """Returns the classes below RARE_SHARE of the test set's labelled pixels, where known."""
    tables = [run.scores.get(protocol or "", {}) for run in runs]
    shares = [(name, row.get("share")) for table in tables for name, row in table.items()]
    return {name for name, share in shares if share is not None and share < RARE_SHARE}


def common_protocol(runs: Sequence[Run], wanted: str | None) -> str:
    """Returns the protocol to draw: the wanted one, or the first that all runs have.

    Raises:
        UserError: not all runs have it, or they have none in common.
    """
    for protocol in [wanted] if wanted else list(runs[0].scores):
        if all(protocol in run.scores for run in runs):
            return protocol
    known = "; ".join(f"{run.name}: {', '.join(run.scores)}" for run in runs)
    raise UserError(f"no protocol {wanted or ''} that all runs were scored under ({known})")


def draw_weights(runs: Sequence[Run], head: str, protocol: str | None = None) -> Figure:
    """Draws a small panel per class, all with the same axes, with the runs' recalls above."""
    shown = [run for run in runs if head in run.weights]
    terms = list(dict.fromkeys(t for run in shown for t in run.weights[head]))
    classes = list(
        dict.fromkeys(c for run in shown for rows in run.weights[head].values() for c in rows)
    )
    columns = 5 if len(classes) > 16 else 4
    figure, panels = _panels(len(classes), columns, (3.1, 1.9))
    rare, low, high = rare_classes(runs, protocol), 0.5, 2.0
    for name, axes in zip(classes, panels, strict=True):
        axes.axhline(1, color="0.6", linewidth=0.8, zorder=1)
        _title(axes, name, name in rare)
        for run in shown:
            for term, rows in run.weights[head].items():
                if name not in rows or not len(rows[name][0]):
                    continue
                style = STYLES[terms.index(term) % len(STYLES)]
                clipped = rows[name][0], rows[name][1].clip(MIN_SHOWN_WEIGHT)
                least, most = _draw_curve(axes, clipped, runs, run, style)
                low, high = min(low, least), max(high, most)
        _write_recalls(axes, runs, name, protocol)
    for axes in panels:
        axes.set_yscale("log", base=2)
        axes.set_ylim(low / 1.1, high * 1.1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    note = "line: running median, band: 10 to 90 %"
    if low == MIN_SHOWN_WEIGHT:
        note += f"; weights below {MIN_SHOWN_WEIGHT:g} are drawn there"
    styles = dict(zip(terms, STYLES * len(terms), strict=False)) if len(terms) > 1 else {}
    _legend(figure, runs, shown, f"Class weights, head '{head}'  ({note})", styles, bool(rare))
    return figure


def _write_recalls(axes: Axes, runs: Sequence[Run], name: str, protocol: str | None) -> None:
    """Writes each run's final recall of a class over its panel, in the run's colour."""
    recalls = [r.scores.get(protocol or "", {}).get(name, {}).get("recall") for r in runs]
    if len(runs) > MAX_RECALLS or all(recall is None for recall in recalls):
        return
    words = [
        ("-" if r is None else f"{r:.0f}", _color(runs, run))
        for r, run in zip(recalls, runs, strict=True)
    ]
    for place, (word, color) in enumerate([*reversed(words), ("recall", "0.4")]):
        axes.annotate(
            word,
            (1, 1),
            (-19 * place, 4),
            "axes fraction",
            "offset points",
            ha="right",
            va="bottom",
            fontsize=8.5,
            color=color,
        )


def draw_losses(runs: Sequence[Run]) -> Figure:
    """Draws one panel per loss and one for the gradient's norm."""
    shown = [run for run in runs if run.losses]
    names = list(dict.fromkeys(name for run in shown for name in run.losses))
    figure, panels = _panels(len(names), min(3, len(names)), (4.6, 2.8), share_y=False)
    for name, axes in zip(names, panels, strict=True):
        _title(axes, name, False)
        low, high = math.inf, -math.inf
        for run in shown:
            if len(run.losses.get(name, ((), ()))[0]):
                least, most = _draw_curve(axes, run.losses[name], runs, run, "-")
                low, high = min(low, least), max(high, most)
        if 0 < low * 4 < high:
            axes.set_yscale("log")
            # Decades alone would leave most losses with one label.
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
    _legend(figure, runs, shown, "Losses  (line: running median, band: 10 to 90 %)")
    return figure


def draw_classes(runs: Sequence[Run], protocol: str) -> Figure:
    """Draws bars of IoU and recall (and PQ) per class, most frequent first, then means."""
    shown = [run for run in runs if run.scores]
    rows = [run.scores[protocol] for run in shown]
    names = list(dict.fromkeys(name for table in rows for name in table))
    shares = {n: t[n]["share"] for t in rows for n in t if t[n].get("share") is not None}
    names.sort(key=lambda n: -shares.get(n, 0))
    rare = [n for n in names if n in rare_classes(shown, protocol)]
    scores = [s for s in BAR_SCORES if any(v.get(s) is not None for t in rows for v in t.values())]
    groups = {**{n: [n] for n in names}, "mean": names}
    if rare:
        groups["mean of rare"] = rare
    width = 2.5 + len(groups) * (0.3 + 0.24 * len(shown))
    figure = Figure(figsize=(min(max(8, width), 24), 2.4 * len(scores) + 1), layout="constrained")
    grid = figure.subplots(max(1, len(scores)), 1, sharex=True, squeeze=False)[:, 0]
    for score, axes in zip(scores, grid, strict=False):
        axes.set_ylim(0, 108)
        axes.set_ylabel(f"{score} (%)")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
        axes.axvline(len(names) - 0.5, color="0.6", linewidth=0.8)
        for place, name in enumerate(names):
            if name in rare:
                axes.axvspan(place - 0.5, place + 0.5, color="#FFF3D6", zorder=0, linewidth=0)
        for order, (run, table) in enumerate(zip(shown, rows, strict=True)):
            heights = [group_mean(table, members, score) for members in groups.values()]
            _draw_bars(axes, heights, order, len(shown), _color(runs, run))
    labels = [f"{n} *" if n in rare else n for n in groups]
    grid[-1].set_xticks(range(len(groups)), labels, rotation=35, ha="right", rotation_mode="anchor")
    grid[-1].set_xlim(-0.6, len(groups) - 0.4)
    _legend(figure, runs, shown, f"Scores per class, protocol {protocol}", {}, bool(rare))
    return figure


def group_mean(
    table: Mapping[str, Mapping[str, float | None]], names: Sequence[str], score: str
) -> float:
    """Averages a score over the classes where it is defined; NaN where it is for none."""
    values = [table[n].get(score) for n in names if n in table]
    defined = [v for v in values if v is not None]
    return sum(defined) / len(defined) if defined else math.nan


def _draw_bars(axes: Axes, heights: Sequence[float], order: int, runs: int, color: str) -> None:
    width = 0.84 / runs
    for place, height in enumerate(heights):
        x = place + (order - (runs - 1) / 2) * width
        known = math.isfinite(height)
        axes.bar(x, height if known else 0, width * 0.94, color=color)
        if runs <= MAX_NUMBERS or not known:
            text = f"{height:.0f}" if known else "n/a"
            axes.text(x, (height if known else 0) + 1, text, ha="center", va="bottom", fontsize=7)


def _draw_curve(
    axes: Axes, curve: Curve, runs: Sequence[Run], run: Run, style: str
) -> tuple[float, float]:
    """Draws the running median and its band; returns the least and the greatest drawn value."""
    iterations, (low, median, high) = smooth(curve)
    color = _color(runs, run)
    axes.fill_between(iterations, low, high, color=color, alpha=0.2, linewidth=0)
    # Earlier runs have wider lines and lie below, so that equal runs stay visible.
    width = 1.3 + 1.5 * min(2, len(runs) - 1 - runs.index(run))
    marker = "o" if len(iterations) < 5 else ""
    axes.plot(iterations, median, style, color=color, linewidth=width, marker=marker, markersize=3)
    return float(low.min()), float(high.max())


def _color(runs: Sequence[Run], run: Run) -> str:
    return COLORS[runs.index(run)]


def _title(axes: Axes, name: str, rare: bool) -> None:
    weight = "bold" if rare else "normal"
    axes.set_title(f"{name} *" if rare else name, loc="left", fontsize=10, fontweight=weight, pad=4)


def _panels(
    count: int, columns: int, size: tuple[float, float], share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(count / columns)
    width, height = columns * size[0], rows * size[1] + 1
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=share_y, squeeze=False).ravel()
    for axes in grid[:count]:
        axes.grid(color="0.92", linewidth=0.6)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10), integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(_short_number))
    for place, axes in enumerate(grid):
        below_is_empty = place + columns >= count
        if place >= count:
            axes.set_visible(False)
        elif below_is_empty:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("iteration", fontsize=8)
    return figure, list(grid[:count])


def _short_number(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10000 else f"{value:g}"


def _legend(
    figure: Figure,
    runs: Sequence[Run],
    shown: Sequence[Run],
    title: str,
    styles: Mapping[str, str] | None = None,
    marks_rare: bool = False,
) -> None:
    handles = [Line2D([], [], color=_color(runs, r), linewidth=5, label=r.name) for r in shown]
    for term, style in (styles or {}).items():
        handles.append(Line2D([], [], color="0.2", linestyle=style, label=term))
    if marks_rare:
        handles.append(Line2D([], [], linestyle="", label=f"*  below {RARE_SHARE:g} % of pixels"))
    figure.suptitle(title, fontsize=12)
    # As many columns as fit: a letter is about 0.085 inches wide, the symbol before it 0.7.
    width = 0.7 + 0.085 * max(len(str(handle.get_label())) for handle in handles)
    most = 4 if len(handles) > 5 else len(handles)
    columns = max(1, min(most, int(figure.get_figwidth() / width)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def write_figure(figure: Figure, path: Path) -> list[Path]:
    """Writes a figure as PNG and SVG, each under a temporary name first.

    Args:
        figure: the figure.
        path: without a suffix.
    """
    written = []
    for kind, metadata in (("png", {}), ("svg", {"Date": None})):
        target = path.with_name(f"{path.name}.{kind}")
        with replacing(target) as temporary:
            figure.savefig(temporary, format=kind, dpi=130, metadata=metadata)
        figure.set_layout_engine("none")  # the layout is done; computing it again takes a second
        written.append(target)
    return written


def plot(
    folders: Sequence[Path], out: Path | None = None, protocol: str | None = None
) -> list[Path]:
    """Draws every figure that the runs' files allow.

    Args:
        folders: output folders of runs.
        out: folder for the pictures; None for plots/ in the first folder.
        protocol: of the scores per class; None for the first that all runs have.

    Returns:
        The files written.

    Raises:
        UserError: a folder that is not that of a run, a damaged file, or nothing to draw.
    """
    if len(folders) > len(COLORS):
        raise UserError(
            f"{len(folders)} runs are too many to distinguish; name at most {len(COLORS)}, or use "
            "`uv run -m gbw_studies.results_table`"
        )
    runs = [read_run(f, n) for f, n in zip(folders, run_names(folders), strict=True)]
    out = folders[0] / "plots" if out is None else out
    scored = _having(runs, "scores", SCORES)
    shared = common_protocol(scored, protocol) if scored else None
    figures: dict[str, Figure] = {}
    for head in dict.fromkeys(h for run in _having(runs, "weights", WEIGHTS) for h in run.weights):
        name = "weights" if head == "semantic" else f"weights_{head}"
        figures[name] = draw_weights(runs, head, shared)
    if _having(runs, "losses", LOSSES):
        figures["losses"] = draw_losses(runs)
    if shared is not None:
        figures["classes"] = draw_classes(runs, shared)
    if not figures:
        raise UserError("these runs have nothing to draw yet")
    return [path for name, figure in figures.items() for path in write_figure(figure, out / name)]


def _having(runs: Sequence[Run], part: str, file: str) -> list[Run]:
    """Returns the runs that have data of a kind, and prints the names of the others."""
    for run in runs:
        if not getattr(run, part):
            print(f"{run.name}: nothing in {file} yet; the run is left out there", file=sys.stderr)
    return [run for run in runs if getattr(run, part)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="OUTPUT_DIR", help="output folders")
    parser.add_argument(
        "--out", type=Path, help="folder for the pictures; default: plots/ in the first OUTPUT_DIR"
    )
    parser.add_argument("--protocol", help="protocol of the scores; default: the first they share")
    args = parser.parse_args(arguments)

    def work() -> None:
        for path in plot(args.runs, args.out, args.protocol):
            print(path)

    return finish(work)


if __name__ == "__main__":
    sys.exit(main())
