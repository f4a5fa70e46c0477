"""Plots the share of pseudo-labelled pixels of each class in each round of self-training.

    uv run -m gbw_studies.plot_rounds output/toy/semantic_source_only-uda_cbst
    uv run -m gbw_studies.plot_rounds output/cbst output/cbst_global

Reads pseudo_labels/round_*/round.json; writes plots/rounds.png and .svg into the first folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gbw_d2.commands import finish
from gbw_d2.errors import UserError
from gbw_d2.files.atomic import replacing
from gbw_d2.plain_files import ContentError, read_json

# Okabe and Ito's colours, which colour-blind readers can distinguish, too. One per round.
COLORS = ("#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7")


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """Reads the rounds of an output folder, in their order.

    Raises:
        UserError: there is none, or a file is damaged.
    """
    paths = sorted(folder.glob("pseudo_labels/round_*/round.json"), key=_number)
    if not paths:
        raise UserError(
            f"{folder} has no pseudo_labels/round_*/round.json; give the OUTPUT_DIR of a run with "
            "UDA.NAME cbst that has finished the labels of a round"
        )
    try:
        return [read_json(path) for path in paths]
    except ContentError as error:
        raise UserError(f"{folder}: a round.json is damaged ({error})") from error


def _number(path: Path) -> int:
    return int(path.parent.name.rpartition("_")[2])


def draw(runs: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> Figure:
    """Draws a panel per run: a group of bars per class, one bar per round, portions as lines.

    Args:
        runs: title and rounds of each.
    """
    figure = Figure(figsize=(12, 0.8 + 3.4 * len(runs)), layout="constrained")
    panels = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
    for axes, (title, rounds) in zip(panels, runs, strict=True):
        _draw_run(axes, rounds)
        axes.set_title(title, loc="left", fontsize=10)
    return figure


def _draw_run(axes: Axes, rounds: Sequence[dict[str, Any]]) -> None:
    names = list(rounds[0]["classes"])
    places, width = np.arange(len(names)), 0.8 / len(rounds)
    for i, content in enumerate(rounds):
        shares = [content["classes"][name]["kept_share"] for name in names]
        label = f"round {content['round']} ({content['policy']}, portion {content['portion']:g})"
        color = COLORS[i % len(COLORS)]
        lefts = places - 0.4 + (i + 0.5) * width
        axes.bar(lefts, shares, width, color=color, label=label)
        axes.axhline(content["portion"], color=color, linewidth=0.8, linestyle=":")
        # With balanced scores more pixels can be labelled as a class than are predicted as it.
        for left, share in zip(lefts, shares, strict=True):
            if share > 1:
                axes.text(left, 1, f"{share:.1f}", ha="center", va="bottom", fontsize=8)
    for place, name in zip(places, names, strict=True):
        missing = [str(r["round"]) for r in rounds if name in r["never_predicted"]]
        if missing:
            text = f"never predicted: {', '.join(missing)}"
            axes.text(place, 0.01, text, rotation=90, ha="center", va="bottom", fontsize=7)
    axes.set_xticks(places, names, rotation=40, ha="right")
    axes.set_ylabel("labelled / predicted pixels")
    most = max(c["kept_share"] for content in rounds for c in content["classes"].values())
    axes.set_ylim(0, 1.0 if most > 1 else None)
    axes.legend(fontsize=8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="OUTPUT_DIR", help="output folders")
    args = parser.parse_args(arguments)

    def work() -> None:
        figure = draw([(folder.name, read_rounds(folder)) for folder in args.runs])
        out = args.runs[0] / "plots"
        for suffix in ("png", "svg"):
            with replacing(out / f"rounds.{suffix}") as temporary:
                figure.savefig(temporary, format=suffix, dpi=110)
            print(out / f"rounds.{suffix}")

    return finish(work)


if __name__ == "__main__":
    sys.exit(main())
