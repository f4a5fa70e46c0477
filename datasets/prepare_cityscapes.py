"""Makes the label files that Cityscapes' download lacks: train ids and panoptic segments.

    python datasets/prepare_cityscapes.py               # makes what is missing in train and val
    python datasets/prepare_cityscapes.py --check       # writes nothing, reads 100 images of each
    python datasets/prepare_cityscapes.py --check --sample 0     # ... reads all of them

Training makes them too if it needs them. It reads `leftImg8bit` and `gtFine`
(leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip) and writes into `gtFine`:

    <split>/<city>/*_gtFine_labelTrainIds.png
    cityscapes_panoptic_<split>_trainId.json and the folder of the same name

An interrupted run continues where it stopped. The default folder is
`$DETECTRON2_DATASETS/cityscapes`, or `datasets/cityscapes`. Only the oracle needs labels of train:
`--splits val` is enough without it. Exit code 2: something is missing or cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from prepare_common import (
    add_sample_option,
    check_sample,
    problems_of,
    run_script,
    tell_sizes,
    warn_of_cities,
    warn_of_count,
)

from gbw_d2 import keys
from gbw_d2.data.formats.cityscapes import (
    INSTANCE_SUFFIX,
    LABEL_SUFFIX,
    NUM_IMAGES,
    SEMANTIC_FILE,
    TRAIN_ID_SUFFIX,
    list_images,
    load_panoptic,
    load_semantic,
    read_panoptic,
    read_semantic,
)
from gbw_d2.data.formats.cityscapes_labels import (
    make_labels,
)
from gbw_d2.data.formats.files import check_size, read_array
from gbw_d2.data.spec import DatasetError, Record, SegmentsInfo
from gbw_d2.label_spaces import CITYSCAPES_19

SIZE = (1024, 2048)
# 0..33; the licence plate, -1 in the official table, is 255 in a file of 8 bits.
LABEL_IDS = (*range(34), 255)
UNPACK = "Unpack gtFine_trainvaltest.zip again."


def read_downloaded(record: Record) -> None:
    """Reads an image's downloaded labels.

    Raises:
        DatasetError: another bit depth or size, unknown ids, or files that do not agree.
    """
    stem = record[SEMANTIC_FILE].removesuffix(TRAIN_ID_SUFFIX)
    label, instance = (
        _read_grey(f"{stem}{suffix}", dtype, record)
        for suffix, dtype in ((LABEL_SUFFIX, np.uint8), (INSTANCE_SUFFIX, np.uint16))
    )
    wrong = sorted(set(np.unique(label).tolist()) - set(LABEL_IDS))
    if wrong:
        raise DatasetError(f"'{stem}{LABEL_SUFFIX}' holds {wrong[:5]}, expected 0..33. {UNPACK}")
    if (np.where(instance >= 1000, instance // 1000, instance) != label).any():
        raise DatasetError(f"'{stem}{LABEL_SUFFIX}' and its instanceIds disagree. {UNPACK}")


def _read_grey(path: str, dtype: type, record: Record) -> np.ndarray:
    array = read_array(path, cv2.IMREAD_UNCHANGED)
    if array.ndim != 2 or array.dtype != dtype:
        raise DatasetError(
            f"'{path}' has {8 * array.dtype.itemsize} bits and {array.ndim} dimensions, expected "
            f"{8 * np.dtype(dtype).itemsize}-bit grey. {UNPACK}"
        )
    check_size(array, record[keys.HEIGHT], record[keys.WIDTH], path)
    return array


def read_labels(record: Record) -> tuple[np.ndarray, SegmentsInfo]:
    """Reads all labels of an image; returns its segments, or raises if a label is unusable."""
    read_downloaded(record)
    read_semantic(record)
    return read_panoptic(record)


def warn_of_images(root: Path, split: str) -> None:
    """Warns if cities lack images."""
    paths = list_images(root, split)
    what = f"split '{split}' of Cityscapes"
    warn_of_count(len(paths), NUM_IMAGES[split], what, scored=split == "val")
    warn_of_cities([path.parent.name for path in paths], split)


def check_split(root: Path, split: str, args: argparse.Namespace) -> list[str]:
    """Returns the problems of a split as messages."""
    looks = (warn_of_images, load_semantic, load_panoptic)
    problems = [text for look in looks for text in problems_of(look, root, split)]
    if not problems:
        records = load_panoptic(root, split)
        tell_sizes(records, SIZE)
        problems = check_sample(records, read_labels, args.sample, args.workers, CITYSCAPES_19)
    return [f"{split}: {text}" for text in dict.fromkeys(problems)]


def check(args: argparse.Namespace) -> Sequence[str]:
    """Checks each split."""
    problems = [text for split in args.splits for text in check_split(args.root, split, args)]
    if not problems:
        print(f"{args.root}: {' and '.join(args.splits)} can be used")
    return problems


def make(args: argparse.Namespace) -> Sequence[str]:
    """Makes missing files, then checks all."""
    for split in args.splits:
        make_labels(args.root, split, panoptic=True, workers=args.workers)
        if problems_of(load_panoptic, args.root, split):
            make_labels(args.root, split, panoptic=True, workers=args.workers, anew=True)
    return check(args)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds this script's options."""
    splits = list(NUM_IMAGES)
    parser.add_argument("--splits", nargs="+", choices=splits, default=splits)
    add_sample_option(parser)


if __name__ == "__main__":
    sys.exit(run_script(__doc__, "cityscapes", "leftImg8bit and gtFine", make, check, add_options))
