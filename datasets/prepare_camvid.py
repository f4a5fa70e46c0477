"""Checks CamVid, in SegNet's form or the original; its files are used as downloaded.

    python datasets/prepare_camvid.py                     # reads and counts the 367 training labels
    python datasets/prepare_camvid.py --check             # writes nothing, reads 100 of each split
    python datasets/prepare_camvid.py --check --sample 0  # ... reads all of them

The default folder is `$DETECTRON2_DATASETS/camvid`, or `datasets/camvid`. Exit code 2: something is
missing or cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from prepare_common import add_sample_option, check_dataset, collect, count_classes, run_script

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.camvid import NUM_IMAGES, form_of, load_camvid


def check_split(args: argparse.Namespace, split: str) -> list[str]:
    """Reads the images and labels of a split; returns problems.

    Raises:
        DatasetError: something is missing.
    """
    records = load_camvid(args.root, split)
    spec = get_dataset(f"camvid_semantic_{split}")
    return check_dataset(spec, records, args, NUM_IMAGES[split])


def check(args: argparse.Namespace) -> list[str]:
    """Checks the three splits."""
    missing = collect(_tell_form, args.root)
    return missing or [p for split in NUM_IMAGES for p in collect(check_split, args, split)]


def _tell_form(root: Path) -> list[str]:
    form = form_of(root)
    print(f"found {', '.join(labels for _, labels in form.pairs)} in {root}")
    return []


def make(args: argparse.Namespace) -> Sequence[str]:
    """Counts the classes of the training labels, which also reads every one of them."""
    problems = check(args)
    if not problems:
        folder = args.root.parent / ".class_statistics"
        spec = get_dataset("camvid_semantic_train")
        problems = count_classes(spec, load_camvid(args.root, "train"), folder)
    return problems


if __name__ == "__main__":
    sys.exit(
        run_script(
            __doc__,
            "camvid",
            "train, trainannot and so on, or 701_StillsRaw_full and LabeledApproved_full",
            make,
            check,
            add_sample_option,
        )
    )
