"""Checks Foggy Cityscapes; its files are used as downloaded, with Cityscapes' labels.

    python datasets/prepare_foggy_cityscapes.py              # reads 100 images of each split
    python datasets/prepare_foggy_cityscapes.py --sample 0   # ... reads all of them
    python datasets/prepare_foggy_cityscapes.py --betas 0.02 # ... of one fog only

It writes nothing, with and without --check. `leftImg8bit_foggy`
(leftImg8bit_trainvaltest_foggy.zip) lies in Cityscapes' folder, beside `gtFine`, whose labels
`python datasets/prepare_cityscapes.py` makes. The default folder is
`$DETECTRON2_DATASETS/cityscapes`, or `datasets/cityscapes`. Exit code 2: something is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from prepare_common import (
    add_sample_option,
    check_dataset,
    collect,
    run_script,
    warn_of_cities,
)

from gbw_d2 import keys
from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.cityscapes import NUM_IMAGES, load_images, load_panoptic
from gbw_d2.data.formats.foggy import BETAS, foggy_images
from gbw_d2.data.spec import Record


def check_train(args: argparse.Namespace, beta: str) -> list[str]:
    """Checks the training images of one fog density, which need no labels."""
    records = load_images(args.root, "train", foggy_images(beta))
    return _check(f"foggy_cityscapes_{beta}_unlabelled_train", records, args, "train")


def check_val(args: argparse.Namespace, beta: str) -> list[str]:
    """Checks the test images of one fog density with Cityscapes' labels."""
    records = load_panoptic(args.root, "val", foggy_images(beta))
    return _check(f"foggy_cityscapes_{beta}_panoptic_val", records, args, "val")


def _check(name: str, records: list[Record], args: argparse.Namespace, split: str) -> list[str]:
    warn_of_cities([Path(r[keys.FILE_NAME]).parent.name for r in records], split)
    return check_dataset(get_dataset(name), records, args, NUM_IMAGES[split], (1024, 2048))


def check(args: argparse.Namespace) -> Sequence[str]:
    """Checks each fog density."""
    looks = (check_train, check_val)
    return [p for beta in args.betas for look in looks for p in collect(look, args, beta)]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds this script's options."""
    parser.add_argument("--betas", nargs="+", choices=BETAS, default=list(BETAS))
    add_sample_option(parser)


if __name__ == "__main__":
    sys.exit(
        run_script(__doc__, "cityscapes", "leftImg8bit_foggy and gtFine", check, check, add_options)
    )
