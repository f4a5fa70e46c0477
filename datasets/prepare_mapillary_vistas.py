"""Checks Mapillary Vistas 1.2; its files are used as downloaded and mapped when they are read.

    python datasets/prepare_mapillary_vistas.py              # reads 100 images of each split
    python datasets/prepare_mapillary_vistas.py --sample 0   # ... reads all of them

It writes nothing, with and without --check. The default folder is
`$DETECTRON2_DATASETS/mapillary_vistas`, or `datasets/mapillary_vistas`. The training images need no
labels except for the oracle: `--splits val` checks the test images alone. Exit code 2: something is
missing or cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from prepare_common import add_sample_option, check_dataset, collect, run_script

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.vistas import NUM_IMAGES, load_labelled


def check_split(args: argparse.Namespace, split: str) -> list[str]:
    """Checks a split; returns problems.

    Raises:
        DatasetError: something is missing.
    """
    records = load_labelled(args.root, split)
    return check_dataset(get_dataset(f"vistas_panoptic_{split}"), records, args, NUM_IMAGES[split])


def check(args: argparse.Namespace) -> Sequence[str]:
    """Checks each split."""
    return [problem for split in args.splits for problem in collect(check_split, args, split)]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds this script's options."""
    parser.add_argument("--splits", nargs="+", choices=list(NUM_IMAGES), default=list(NUM_IMAGES))
    add_sample_option(parser)


if __name__ == "__main__":
    sys.exit(
        run_script(
            __doc__, "mapillary_vistas", "training and validation", check, check, add_options
        )
    )
