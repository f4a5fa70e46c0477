"""Checks ACDC: Cityscapes' classes in fog, at night, in rain and in snow; used as downloaded.

    python datasets/prepare_acdc.py                       # reads 100 images of each split
    python datasets/prepare_acdc.py --sample 0            # ... reads all of them
    python datasets/prepare_acdc.py --conditions fog night

It writes nothing, with and without --check. The default folder is `$DETECTRON2_DATASETS/acdc`, or
`datasets/acdc`. Exit code 2: something is missing or cannot be used.
"""

from __future__ import annotations

import argparse
import sys

from prepare_common import check_dataset, run_script_of_parts

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.acdc import CONDITIONS, NUM_IMAGES, load_acdc, load_panoptic

SIZE = (1080, 1920)


def check_condition(args: argparse.Namespace, condition: str) -> list[str]:
    """Checks a condition's training and test images; returns problems.

    If there are panoptic labels, those of the test set are read, too.

    Raises:
        DatasetError: something is missing.
    """
    problems = []
    has_panoptic = (args.root / "gt_panoptic").is_dir()
    for split, kind in (
        ("train", "unlabelled"),
        ("val", "panoptic" if has_panoptic else "semantic"),
    ):
        if kind == "panoptic":
            records = load_panoptic(args.root, split, (condition,))
        else:
            records = load_acdc(args.root, split, (condition,), labelled=kind == "semantic")
        spec = get_dataset(f"acdc_{condition}_{kind}_{split}")
        problems += check_dataset(spec, records, args, NUM_IMAGES[split][condition], SIZE)
    return problems


if __name__ == "__main__":
    what = ("acdc", "rgb_anon and gt", "conditions", CONDITIONS)
    sys.exit(run_script_of_parts(__doc__, *what, check_condition))
