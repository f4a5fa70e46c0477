#!/usr/bin/env python3
"""Plots the gains of studies' proposed arms and of their first rivals, by recipe and test set.

    uv run -m gbw_studies.plot_studies studies/margins.yaml studies/long.yaml --out gains.png
    uv run -m gbw_studies.plot_studies studies/long.yaml --without toy_synthia_semantic_val

Reads the studies' results.jsonl (gbw_studies/study.py); writes the picture, and prints the numbers
as a Markdown table. A gain is the arm minus the study's baseline, with the same recipe and seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gbw_d2.commands import finish
from gbw_d2.errors import UserError
from gbw_studies.results.cells import table
from gbw_studies.results.comparison import Difference, Section, pair_count, sections
from gbw_studies.results.plots import COLORS, ORANGE, write_png
from gbw_studies.results.rows import Results, read_results
from gbw_studies.results.tables import COMPARED, signed

SPREAD = 0.7  # of a row's height, shared by its arms
PROPOSED_COLORS = tuple(color for color in COLORS if color != ORANGE)


@dataclass(frozen=True)
class Setting:
    """One recipe and test set of a study.

    Args:
        name: recipe and test set.
        gains: for each arm, the first rival last, measure name -> difference to the baseline; empty
            if the arm has not run.
    """

    name: str
    gains: tuple[Mapping[str, Difference], ...]

    @property
    def pairs(self) -> str:
        """The number of pairs of runs behind the difference of each arm."""
        return " / ".join(str(pair_count(gains)) for gains in self.gains)


@dataclass(frozen=True)
class Group:
    """The settings of one study.

    Args:
        study: the YAML file's name.
        title: the study's.
        arms: the proposed arms, then the first rival.
    """

    study: str
    title: str
    arms: tuple[str, ...]
    settings: tuple[Setting, ...]

    @property
    def colors(self) -> tuple[str, ...]:
        """A colour per arm; the rival has the same in every group."""
        return (*PROPOSED_COLORS[: len(self.arms) - 1], ORANGE)

    @property
    def offsets(self) -> list[float]:
        """The vertical offset of each arm within its row, in rows."""
        count = len(self.arms)
        return [(i - (count - 1) / 2) * SPREAD / count for i in range(count)]


def group(results: Results, without: Sequence[str] = ()) -> Group:
    """Compares a study's proposed arms and its first rival with the baseline.

    Args:
        results: of a study.
        without: test sets that are left out.

    Raises:
        UserError: the study proposes no arm or too many, has no rival, or no pair of runs is
            finished.
    """
    study = results.study
    if not study.proposed or not study.rivals:
        raise UserError(f"{study.path} needs 'proposed' and 'rivals' for this plot")
    if len(study.proposed) > len(PROPOSED_COLORS):
        raise UserError(
            f"{study.path} proposes {len(study.proposed)} arms, and the picture has "
            f"{len(PROPOSED_COLORS)} colours for them; propose fewer"
        )
    arms = (*study.proposed, study.rivals[0])
    found = [
        _setting(section, arms) for section in sections(results) if section.dataset not in without
    ]
    settings = tuple(setting for setting in found if any(setting.gains[:-1]))
    if not settings:
        elsewhere = f" outside {', '.join(without)}" if without else ""
        raise UserError(
            f"{study.path}: no proposed arm ({', '.join(study.proposed)}) shares a finished seed "
            f"with '{study.baseline}'{elsewhere}"
        )
    return Group(study.path.name, study.title, arms, settings)


def check_test_sets(studies: Sequence[Results], names: Sequence[str]) -> None:
    """Checks that each of the test sets has scores of some run.

    Raises:
        UserError: a test set without scores.
    """
    known = sorted({name for results in studies for run in results.runs for name in run.scores})
    strange = [name for name in names if name not in known]
    if strange:
        raise UserError(f"no run is scored on {', '.join(strange)} (there are: {', '.join(known)})")


def _setting(section: Section, arms: Sequence[str]) -> Setting:
    rows = [section.row(arm) for arm in arms]
    gains = tuple(row.differences if row is not None else {} for row in rows)
    return Setting(f"{section.recipe}, {section.dataset}", gains)


def markdown(groups: Sequence[Group]) -> str:
    """Writes a row per setting, with the gains of each arm and the number of their pairs."""
    measures = _measures(groups)
    rows = [
        [
            one.study,
            setting.name,
            setting.pairs,
            *(" / ".join(_mean(gains, m) for gains in setting.gains) for m in measures),
        ]
        for one in groups
        for setting in one.settings
    ]
    return table(["study", "recipe, test set", "pairs", *(f"Δ {m}" for m in measures)], rows)


def _measures(groups: Sequence[Group]) -> list[str]:
    settings = [setting for one in groups for setting in one.settings]
    return [m for m in COMPARED if any(_has(setting, m) for setting in settings)]


def _has(setting: Setting, measure: str) -> bool:
    return any(measure in gains for gains in setting.gains[:-1])


def _mean(differences: Mapping[str, Difference], measure: str) -> str:
    return signed(differences[measure].mean) if measure in differences else "-"


def draw(groups: Sequence[Group]) -> Figure:
    """Draws a panel per study and measure, with small dots for seeds and a bar at their mean."""
    measures, counts = _measures(groups), [len(one.settings) for one in groups]
    height = 1.2 + sum(0.3 * count + 0.75 for count in counts)
    figure = Figure(figsize=(12.5, height), layout="constrained")
    ratios = {"height_ratios": [count + 1 for count in counts]}
    figure.get_layout_engine().set(h_pad=0.12)  # inches, for the headlines
    shape = len(groups), len(measures)
    grid = figure.subplots(*shape, sharex="col", sharey="row", squeeze=False, gridspec_kw=ratios)
    for one, line in zip(groups, grid, strict=True):
        for measure, axes in zip(measures, line, strict=True):
            _panel(axes, one, measure)
        names = [f"{setting.name}  ({setting.pairs})" for setting in one.settings]
        _headline(line[0], f"{one.title} ({one.study})")
        line[0].set_yticks(range(len(one.settings)), names, fontsize=8)
        line[0].set_ylim(len(one.settings) - 0.5, -0.5)
    keys: dict[str, dict[str, None]] = {}  # colour -> names of arms, each once, in order
    for one in groups:
        for color, arm in zip(one.colors, one.arms, strict=True):
            keys.setdefault(color, {})[arm] = None
    figure.legend(
        handles=[_key(color, ", ".join(keys[color])) for color in COLORS if color in keys],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    figure.suptitle(
        "Arm minus baseline: mean (bar) and each seed (dot); in brackets, seeds of each arm",
        fontsize=11,
    )
    return figure


def _headline(axes: Axes, text: str) -> None:
    # An annotation, because a title would make its column as wide as the text.
    title = axes.annotate(
        *(text, (0, 1)),
        xycoords="axes fraction",
        xytext=(0, 5),
        textcoords="offset points",
        fontsize=9,
        fontweight="bold",
    )
    title.set_in_layout(False)


def _key(color: str, name: str) -> Line2D:
    return Line2D([], [], color=color, marker="o", markersize=4, linestyle="", label=name)


def _panel(axes: Axes, one: Group, measure: str) -> None:
    if not any(_has(setting, measure) for setting in one.settings):
        axes.spines[:].set_visible(False)
        axes.xaxis.set_visible(False)
        axes.tick_params(left=False)
        return
    axes.axvline(0, color="0.4", linewidth=1, zorder=1)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, labelbottom=True)
    axes.set_xlabel(f"{measure}, points", fontsize=8)
    for place, setting in enumerate(one.settings):
        if place % 2:
            axes.axhspan(place - 0.5, place + 0.5, color="0.965", zorder=0, linewidth=0)
        for gains, color, offset in zip(setting.gains, one.colors, one.offsets, strict=True):
            if measure not in gains:
                continue
            values = [*gains[measure].values.values()]
            at = place + offset
            axes.plot(values, [at] * len(values), "o", color=color, markersize=2.6, alpha=0.75)
            middle = gains[measure].mean
            axes.plot(middle, at, "|", color=color, markersize=9, markeredgewidth=2.4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, prints the table and writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="+", type=Path, help="YAML files")
    parser.add_argument("--out", type=Path, required=True, help="the PNG")
    parser.add_argument("--without", nargs="+", default=(), help="test sets to leave out")
    args = parser.parse_args(arguments)

    def work() -> None:
        studies = [read_results(path) for path in args.studies]
        check_test_sets(studies, args.without)
        groups = [group(results, args.without) for results in studies]
        write_png(draw(groups), args.out)
        print(markdown(groups))
        print(args.out, file=sys.stderr)

    return finish(work)


if __name__ == "__main__":
    sys.exit(main())
