#!/usr/bin/env python3
"""Prints the class weights of a run, averaged over time: a static copy of an adaptive weighting.

    uv run tools/mean_class_weights.py output/toy/panoptic_gbw

The line can stand in a config: `fixed` takes the numbers in the order of the class ids. All loss
terms of the semantic head count the same; a batch counts for the classes that it shows.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from gbw_d2.errors import UserError


def mean_weights(path: Path) -> list[float]:
    """Averages class_weights.csv over time, then over terms.

    Args:
        path: the file; a run's classes stand in the order of their ids.

    Returns:
        K weights with the mean 1; a class that no batch shows has 1 before that.

    Raises:
        UserError: no such file, or no row of the semantic head.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the OUTPUT_DIR of a run")
    weights: dict[str, dict[str, list[float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["head"] == "semantic":
                seen = weights.setdefault(row["class"], {}).setdefault(row["term"], [])
                if float(row["pixels"]) > 0:
                    seen.append(float(row["weight"]))
    if not weights:
        raise UserError(f"{path} has no weights of the semantic head")
    means = []
    for terms in weights.values():
        known = [statistics.mean(values) for values in terms.values() if values]
        means.append(statistics.mean(known) if known else 1.0)
    return [round(mean * len(means) / sum(means), 3) for mean in means]


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and prints the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="OUTPUT_DIR", help="output folder of a run")
    args = parser.parse_args(arguments)
    try:
        weights = mean_weights(args.run / "class_weights.csv")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{{WEIGHTING.NAME: fixed, WEIGHTING.CLASS_WEIGHTS: {weights}}}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
