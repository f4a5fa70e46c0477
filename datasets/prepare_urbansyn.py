"""Checks UrbanSyn and counts its classes; its files are used as downloaded.

    python datasets/prepare_urbansyn.py                 # reads and counts all labels
    python datasets/prepare_urbansyn.py --check         # writes nothing, reads 100 of them
    python datasets/prepare_urbansyn.py --check --sample 0       # ... reads all of them

Images 6973 to 7029, whose labels are wrong, are left out. The default folder is
`$DETECTRON2_DATASETS/urbansyn`, or `datasets/urbansyn`. Exit code 2: it cannot be used as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from prepare_common import add_sample_option, check_dataset, collect, count_classes, run_script

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.urbansyn import NUM_IMAGES, WRONG_LABELS, load_urbansyn

DATASET = "urbansyn_panoptic_train"
SIZE = (1024, 2048)


def _look(args: argparse.Namespace) -> list[str]:
    records = load_urbansyn(args.root)
    count = NUM_IMAGES - len(WRONG_LABELS)
    return check_dataset(get_dataset(DATASET), records, args, count, SIZE)


def check(args: argparse.Namespace) -> list[str]:
    """Reads some images with their labels; returns what cannot be used."""
    return collect(_look, args)


def make(args: argparse.Namespace) -> Sequence[str]:
    """Counts the classes of all labels, which also reads every one of them."""
    problems = check(args)
    if problems:
        return problems
    folder = args.root.parent / ".class_statistics"
    return count_classes(get_dataset(DATASET), load_urbansyn(args.root), folder)


if __name__ == "__main__":
    holds = "rgb, ss and panoptic"
    sys.exit(run_script(__doc__, "urbansyn", holds, make, check, add_sample_option))
