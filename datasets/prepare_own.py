"""Checks your own data, described by a YAML or JSON file, and counts the classes of its labels.

    python datasets/prepare_own.py toy_own/data.yaml --check        # reads all; writes nothing
    python datasets/prepare_own.py toy_own/data.yaml                # and stores the class counts

Prints the share and the instances of each class, lists every value that the file lacks with the
first label that has it, and stops if instances seem to have another coding than stated. The file's
path is relative to `$DETECTRON2_DATASETS`, or to `datasets`; docs/your_own_data.md describes its
content. Exit code 2: the data cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from prepare_common import first_ones, run_script, spread, tell_classes, tell_sizes
from tqdm import tqdm

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.own import read_description
from gbw_d2.data.formats.own.survey import survey
from gbw_d2.data.spec import datasets_root
from gbw_d2.data.statistics import image_class_counts


def check(args: argparse.Namespace) -> Sequence[str]:
    """Reads images, labels and instances of every split; returns problems in words."""
    data = read_description(datasets_root() / args.file)
    problems: list[str] = []
    if data.classes is not None:
        space = data.classes.space
        print(f"{space.num_classes} classes, {len(space.thing_ids)} of them things")
    for name in data.splits:
        spec = get_dataset(f"{args.file}:{name}")
        records = spec.load()
        kinds = (("labels", spec.read_semantic), ("instances", spec.read_panoptic))
        has = [kind for kind, reader in kinds if reader is not None]
        print(f"{spec.name}: {len(records)} images, {' and '.join(has) or 'no labels'}")
        tell_sizes(records)
        records = spread(records, args.sample)
        bar = partial(tqdm, desc="checking", total=len(records), unit="image")
        found = survey(data, name, records, args.workers, bar)
        problems += found.problems + tell_classes(found)
        if not found.problems:
            print("all good")
    return first_ones(problems)


def make(args: argparse.Namespace) -> Sequence[str]:
    """Checks the data, and stores the class counts of every labelled split."""
    problems = check(args)
    if problems:
        return problems
    folder = datasets_root() / ".class_statistics"
    for name in read_description(datasets_root() / args.file).splits:
        spec = get_dataset(f"{args.file}:{name}")
        if spec.read_semantic is not None:
            image_class_counts(spec, spec.load(), folder)
    print(f"class statistics are in {folder}")
    return ()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds this script's options."""
    parser.add_argument("file", help="the description, YAML or JSON")
    parser.add_argument(
        "--sample", type=int, default=0, help="images to read of each split; default: all"
    )


if __name__ == "__main__":
    sys.exit(run_script(__doc__, None, "", make, check, add_options))
