"""Checks Cross-City (NTHU): Rome, Rio, Tokyo and Taipei; its files are used as downloaded.

    python datasets/prepare_crosscity.py                     # reads 100 images of each split
    python datasets/prepare_crosscity.py --sample 0          # ... reads all of them
    python datasets/prepare_crosscity.py --cities Rome Rio

It writes nothing, with and without --check. The default folder is `$DETECTRON2_DATASETS/crosscity`,
or `datasets/crosscity`. Exit code 2: something is missing or cannot be used.
"""

from __future__ import annotations

import argparse
import sys

from prepare_common import check_dataset, run_script_of_parts

from gbw_d2 import keys
from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.crosscity import (
    CITIES,
    NUM_TEST,
    NUM_TRAIN,
    load_crosscity_images,
    load_crosscity_labelled,
)


def check_city(args: argparse.Namespace, city: str) -> list[str]:
    """Checks a city's training and test images; returns problems.

    Raises:
        DatasetError: something is missing.
    """
    train = load_crosscity_images(args.root, city, "Train")
    problems = check_dataset(
        get_dataset(f"crosscity_{city.lower()}_unlabelled_train"), train, args, NUM_TRAIN
    )
    test = load_crosscity_labelled(args.root, city)
    problems += check_dataset(
        get_dataset(f"crosscity_{city.lower()}_semantic_val"), test, args, NUM_TEST
    )
    both = {r[keys.IMAGE_ID] for r in train} & {r[keys.IMAGE_ID] for r in test}
    if both:
        # The lists of published runs have them, too: Rome 17, Rio 24, Tokyo 34, Taipei 89.
        print(f"{city}: {len(both)} test images are training images too, without labels there")
    return problems


if __name__ == "__main__":
    what = ("crosscity", "the four cities", "cities", CITIES)
    sys.exit(run_script_of_parts(__doc__, *what, check_city))
