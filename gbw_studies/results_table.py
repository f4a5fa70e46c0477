#!/usr/bin/env python3
"""Writes tables of mean and standard deviation over seeds, for output folders or studies.

    uv run -m gbw_studies.results_table output/toy/*                        # one row per recipe
    uv run -m gbw_studies.results_table output/toy/* --metrics PQ_16 mIoU_16
    uv run -m gbw_studies.results_table output/toy/* --classes IoU --protocol 16
    uv run -m gbw_studies.results_table studies/scale.yaml                  # into studies/scale/
    uv run -m gbw_studies.results_table studies/*.yaml --arms gbw focal

For output folders it prints a Markdown table. Runs whose configs differ only in SEED and OUTPUT_DIR
are one recipe, named by its first folder.
For studies (gbw_studies/study.py) it writes table.md, per_class.md, both as CSV, arms.png and
classes.png. Studies without a finished run are listed and left out. Git keeps only the YAML, the
table.md, and the pictures that a page shows.
The standard deviation is that of the sample (n - 1); a single run has none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gbw_d2.commands import finish
from gbw_d2.errors import UserError
from gbw_studies.results.folders import classes_table, group_by_recipe, metrics_table, read_run

METRICS = ("PQ_16", "PQ_th_16", "PQ_st_16", "mIoU_16", "recall_16", "mIoU_16_void", "mIoU_13")


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line; prints the table, or writes the studies' files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, help="output folders, results.json files, or studies' YAML")
    add("--metrics", nargs="+", default=METRICS, help="columns of output folders")
    add("--classes", metavar="SCORE", help="output folders, per class: IoU, recall, PQ, ...")
    add("--protocol", default="16", help="protocol of --classes")
    add("--arms", nargs="+", default=(), help="studies: arms shown class by class")
    args = parser.parse_args(arguments)

    def work() -> None:
        if all(path.suffix == ".yaml" for path in args.runs):
            _write_studies(args.runs, args.arms)
        else:
            _print_table(args)

    return finish(work)


def _write_studies(paths: Sequence[Path], arms: Sequence[str]) -> None:
    from gbw_studies.results.pages import (
        write_studies,
    )  # imports PyTorch: seconds

    for path in write_studies(paths, arms):
        print(path)


def _print_table(args: argparse.Namespace) -> None:
    if args.arms or any(path.suffix == ".yaml" for path in args.runs):
        raise UserError("name either output folders, or studies' YAML files with --arms")
    groups = group_by_recipe([read_run(folder) for folder in args.runs])
    if args.classes:
        print(classes_table(groups, args.classes, args.protocol))
    else:
        print(metrics_table(groups, args.metrics))


if __name__ == "__main__":
    sys.exit(main())
