#!/usr/bin/env python3
"""Writes a Markdown table of mean and standard deviation over seeds from results.json files.

    uv run tools/results_table.py output/toy/*                        # one row per recipe
    uv run tools/results_table.py output/toy/* --metrics PQ_16 mIoU_16
    uv run tools/results_table.py output/toy/* --classes IoU --protocol 16

Runs whose configs differ in SEED and OUTPUT_DIR alone are one recipe, named by its first folder.
The standard deviation is that of the sample (n - 1); a single run has none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS = ("PQ_16", "PQ_th_16", "PQ_st_16", "mIoU_16", "recall_16", "mIoU_16_void", "mIoU_13")
NOT_THE_RECIPE = ("SEED", "OUTPUT_DIR")

Run = dict[str, Any]


def read_run(folder: Path) -> Run:
    """Reads a run's results.json and adds its folder.

    Raises:
        ValueError: there is none.
    """
    path = folder / "results.json" if folder.is_dir() else folder
    if not path.is_file():
        raise ValueError(f"{folder} holds no results.json; the run is not finished")
    return json.loads(path.read_text()) | {"folder": path.parent}


def group_by_recipe(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Groups runs of one recipe, in the order in which they come."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        config = {k: v for k, v in run["run"]["config"].items() if k not in NOT_THE_RECIPE}
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    return {group[0]["folder"].name: group for group in groups.values()}


def cell(values: Sequence[float | None]) -> str:
    """Writes mean and spread of the defined values; ``-`` where there is none."""
    defined = [v for v in values if v is not None]
    if not defined:
        return "-"
    mean = f"{statistics.mean(defined):.1f}"
    return mean if len(defined) == 1 else f"{mean} ± {statistics.stdev(defined):.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def metrics_table(groups: Mapping[str, Sequence[Run]], metrics: Sequence[str]) -> str:
    """Writes one row per recipe, one column per metric."""
    shown = [m for m in metrics if any(m in r["metrics"] for g in groups.values() for r in g)]
    lines = [_line(["recipe", "seeds", *shown]), _line(["---"] * (len(shown) + 2))]
    for name, runs in groups.items():
        seeds = ", ".join(str(r["run"]["seed"]) for r in runs)
        cells = [cell([r["metrics"].get(m) for r in runs]) for m in shown]
        lines.append(_line([name, seeds, *cells]))
    return "\n".join(lines)


def classes_table(groups: Mapping[str, Sequence[Run]], score: str, protocol: str) -> str:
    """Writes one row per class, one column per recipe."""
    first = next(iter(groups.values()))[0]["per_class"]
    if protocol not in first:
        raise ValueError(f"no scores under protocol '{protocol}' (there are: {', '.join(first)})")
    lines = [_line([f"{score} ({protocol})", *groups]), _line(["---"] * (len(groups) + 1))]
    for name in first[protocol]:
        cells = [
            cell([r["per_class"][protocol][name].get(score) for r in runs])
            for runs in groups.values()
        ]
        lines.append(_line([name, *cells]))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="output folders, or results.json files")
    parser.add_argument("--metrics", nargs="+", default=METRICS, help="columns")
    parser.add_argument("--classes", metavar="SCORE", help="per class: IoU, recall, PQ, ...")
    parser.add_argument("--protocol", default="16", help="protocol of --classes")
    args = parser.parse_args(arguments)
    try:
        groups = group_by_recipe([read_run(folder) for folder in args.runs])
        if args.classes:
            print(classes_table(groups, args.classes, args.protocol))
        else:
            print(metrics_table(groups, args.metrics))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
