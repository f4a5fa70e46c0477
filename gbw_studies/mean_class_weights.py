#!/usr/bin/env python3
"""Prints class weights of runs, averaged over time: a static copy of an adaptive weighting.

    uv run -m gbw_studies.mean_class_weights output/toy/semantic_gbw
    uv run -m gbw_studies.mean_class_weights output/toy/gbw_seed_* --terms source mixed

The printed line can be used in a study; `fixed` takes the numbers in the order of the class ids.
All runs and all loss terms have equal weight; a batch counts for the classes that it contains. If
only the loss term source is used, the default, the copy acts on that term alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gbw_d2.commands import finish
from gbw_d2.errors import UserError
from gbw_studies.results.class_log import read_class_log


def mean_weights(folders: Sequence[Path], terms: Sequence[str]) -> list[float]:
    """Averages class_weights.csv over time, then over runs and terms.

    Args:
        folders: OUTPUT_DIRs of runs with the same classes, in the order of their ids.
        terms: loss terms.

    Returns:
        K weights with mean 1; a class that no batch contains has weight 1 before the scaling.

    Raises:
        UserError: a run that cannot be read, or runs whose classes differ.
    """
    logs = [read_class_log(folder, term) for folder in folders for term in terms]
    if len({log.names for log in logs}) > 1:
        raise UserError(f"{', '.join(map(str, folders))}: the runs' classes differ")
    seen = np.stack([np.where(log.pixels > 0, log.weights, 0).sum(0) for log in logs])
    batches = np.stack([(log.pixels > 0).sum(0) for log in logs])
    means = np.where(batches > 0, seen / np.maximum(batches, 1), np.nan)
    known = ~np.isnan(means)
    mean = np.where(known, means, 0).sum(0) / np.maximum(known.sum(0), 1)
    mean = np.where(known.any(0), mean, 1.0)
    return [round(float(weight), 3) for weight in mean * len(mean) / mean.sum()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and prints the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="OUTPUT_DIR", help="folders of runs")
    parser.add_argument("--terms", nargs="+", default=["source"], help="default: source")
    args = parser.parse_args(arguments)

    def work() -> None:
        weights = mean_weights(args.runs, args.terms)
        acts_on = "source" if args.terms == ["source"] else "all"
        fixed = f"WEIGHTING.NAME: fixed, WEIGHTING.ACTS_ON: {acts_on}"
        print(f"{{{fixed}, WEIGHTING.CLASS_WEIGHTS: {weights}}}")

    return finish(work)


if __name__ == "__main__":
    sys.exit(main())
