"""Checks own data that a YAML or JSON file describes, and counts the classes of its labels.

    python datasets/prepare_own.py toy_own/data.yaml                # reads and counts all labels
    python datasets/prepare_own.py toy_own/data.yaml --check        # writes nothing, reads 100

The file's path is relative to `$DETECTRON2_DATASETS`, or to `datasets`; docs/your_own_data.md says
what it holds. Exit code 2: something cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from prepare_common import add_sample_option, check_sample, count_classes, run_script, tell_sizes

from gbw_d2.data.catalog import DatasetSpec, Record, datasets_root, get_dataset
from gbw_d2.data.formats.own import read_description


def each_split(
    args: argparse.Namespace, work: Callable[[DatasetSpec, list[Record]], Sequence[str]]
) -> Sequence[str]:
    """Lists the images of every split and does ``work`` on it; returns problems in words."""
    problems: list[str] = []
    for split in read_description(datasets_root() / args.file).splits:
        spec = get_dataset(f"{args.file}:{split}")
        records = spec.load()
        kinds = (("labels", spec.read_semantic), ("instances", spec.read_panoptic))
        found = [kind for kind, reader in kinds if reader is not None]
        print(f"{spec.name}: {len(records)} images, {' and '.join(found) or 'no labels'}")
        tell_sizes(records)
        problems += work(spec, records)
    return problems


def make(args: argparse.Namespace) -> Sequence[str]:
    """Counts the classes of every labelled split."""

    def count(spec: DatasetSpec, records: list[Record]) -> Sequence[str]:
        if spec.read_semantic is not None:
            count_classes(spec.name, records, datasets_root() / ".class_statistics")
        return ()

    return each_split(args, count)


def check(args: argparse.Namespace) -> Sequence[str]:
    """Reads images, labels and instances of every split."""
    return each_split(
        args,
        lambda spec, records: check_sample(
            records, spec.read_panoptic or spec.read_semantic, args.sample, args.workers
        ),
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds this script's options."""
    parser.add_argument("file", help="the description, YAML or JSON")
    add_sample_option(parser)


if __name__ == "__main__":
    sys.exit(run_script(__doc__, None, "", make, check, add_options))
