#!/usr/bin/env python3
"""Computes PQ of existing panoptic prediction files, without a network, on all cores.

    uv run tools/score_files.py TRUE.json PREDICTED.json

Both are COCO panoptic files, whose PNG files are in the folder of the same name without `.json`.
The categories must have the same ids in both. TEST.SAVE_PREDICTIONS True writes such files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gbw_d2 import passive_waiting  # noqa: F401  # isort: skip  (before torch)

from gbw_d2.commands import finish
from gbw_d2.evaluation.panoptic_files import score_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, scores and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("truth", type=Path)
    parser.add_argument("prediction", type=Path)
    parser.add_argument("--workers", type=int, help="threads; default: one per core")
    args = parser.parse_args(arguments)
    if args.workers is not None and args.workers < 1:
        parser.error(f"--workers is {args.workers}; expected 1 or more")

    def work() -> None:
        scores = score_files(args.truth, args.prediction, args.workers).compute()
        print(f"{'':8s}" + "".join(f"{key:>8s}" for key in ("PQ", "SQ", "RQ", "classes")))
        for name, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st")):
            values = [scores[key + suffix] for key in ("PQ", "SQ", "RQ")]
            cells = [f"{'-' if value is None else f'{value:.2f}':>8s}" for value in values]
            print(f"{name:8s}" + "".join(cells) + f"{scores['classes' + suffix]:8d}")

    return finish(work)


if __name__ == "__main__":
    sys.exit(main())
