"""What the prepare scripts share: the command line, checks of a labelled source, exit codes.

Importing it also makes the package importable from a checkout that is not installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gbw_d2 import keys
from gbw_d2.data.catalog import (
    DatasetError,
    Record,
    SemanticReader,
    datasets_root,
    get_dataset,
)
from gbw_d2.data.formats.files import check_size, read_image
from gbw_d2.data.label_spaces import CLASSES
from gbw_d2.data.statistics import image_class_counts

Work = Callable[[argparse.Namespace], Sequence[str]]


def run_script(
    description: str | None,
    folder: str | None,
    holds: str,
    make: Work,
    check: Work,
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """Runs a prepare script.

    Args:
        description: the script's docstring, shown by ``--help``.
        folder: name of the dataset's folder below the datasets' root; None = there is none, and no
            option ``--root``.
        holds: what lies in that folder, for ``--help``.
        make: makes what is missing and checks it; gets the arguments, returns problems in words.
        check: the same for ``--check``; it writes nothing.
        add_options: adds the script's own options.

    Returns:
        The exit code: 0, or 2 where something is missing or cannot be used.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if folder is not None:
        parser.add_argument(
            "--root", type=Path, default=datasets_root() / folder, help=f"folder with {holds}"
        )
    parser.add_argument("--check", action="store_true", help="only check; write nothing")
    parser.add_argument("--workers", type=int, help="as many as processors by default")
    add_options(parser)
    args = parser.parse_args()
    try:
        problems = (check if args.check else make)(args)
    # ValueError: settings of the toy world that make no sense.
    except ValueError as error:
        problems = [f"not usable: {error}"]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 2 if problems else 0


def add_sample_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--sample``, the number of images that ``--check`` reads."""
    parser.add_argument(
        "--sample", type=int, default=100, help="with --check: images to read, 0 = all (100)"
    )


def warn_of_count(found: int, expected: int, what: str = "the whole dataset") -> None:
    """Warns where a dataset has another number of images than its release."""
    if found != expected:
        print(f"warning: {found} images, {what} has {expected}")


def check_sample(
    records: list[Record],
    read_label: Callable[[Record], object] | None,
    sample: int,
    workers: int | None = None,
) -> None:
    """Reads images and their labels, evenly spread over a dataset.

    Args:
        records: the dataset's.
        read_label: raises where a label cannot be used; None where there are none.
        sample: how many are read; 0 reads all.
        workers: threads; None = one per processor.

    Raises:
        DatasetError: a file cannot be used.
    """

    def read(record: Record) -> None:
        path = record[keys.FILE_NAME]
        check_size(read_image(path, "RGB"), record[keys.HEIGHT], record[keys.WIDTH], path)
        if read_label is not None:
            read_label(record)

    chosen = records[:: max(len(records) // sample, 1) if sample else 1]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        list(tqdm(pool.map(read, chosen), total=len(chosen), desc="checking", unit="image"))
    what = "images" if read_label is None else "images and labels"
    print(f"read {len(chosen)} of {len(records)} {what}: all good")


def problems_of(look: Callable[..., object], *arguments: object) -> list[str]:
    """Returns what a look at some files finds wrong; empty when all is well."""
    try:
        look(*arguments)
    except DatasetError as error:
        return [str(error)]
    return []


def check_dataset(
    dataset_name: str, records: list[Record], args: argparse.Namespace, num_images: int
) -> None:
    """Checks the number of images of a dataset and reads some with their labels.

    Args:
        dataset_name: a registered dataset.
        records: its records.
        args: the script's arguments (``--sample``, ``--workers``).
        num_images: of the whole release.

    Raises:
        DatasetError: a file cannot be used.
    """
    print(f"{dataset_name}: {len(records)} images")
    warn_of_count(len(records), num_images)
    spec = get_dataset(dataset_name)
    check_sample(records, spec.read_panoptic or spec.read_semantic, args.sample, args.workers)


def count_classes(dataset_name: str, records: list[Record], folder: Path) -> None:
    """Counts the classes of all labels, which also checks every label, and prints a table.

    Args:
        dataset_name: a labelled dataset.
        records: its records.
        folder: where the counts are kept.
    """
    counts = image_class_counts(dataset_name, records, folder)
    share = counts.sum(axis=0) / counts.sum()
    print(f"{'class':14} {'share of pixels':>15} {'images':>7}")
    for c in CLASSES:
        images = int((counts[:, c.train_id] > 0).sum())
        print(f"{c.name:14} {100 * share[c.train_id]:14.3f}% {images:7d}")
    print(f"class statistics are in {folder}")


def run_source_script(
    description: str | None,
    folder: str,
    holds: str,
    dataset_name: str,
    num_images: int,
    load: Callable[[Path], list[Record]],
    read_label: SemanticReader,
) -> int:
    """Runs the prepare script of a labelled source whose files are used as downloaded.

    Args:
        description: the script's docstring.
        folder: name of the dataset's folder below the datasets' root.
        holds: what lies in that folder.
        dataset_name: the dataset whose classes are counted.
        num_images: of the whole release.
        load: root -> records.
        read_label: reads a label and raises where it cannot be used.

    Returns:
        The exit code.
    """

    def listed(args: argparse.Namespace) -> list[Record]:
        records = load(args.root)
        warn_of_count(len(records), num_images)
        return records

    def make(args: argparse.Namespace) -> Sequence[str]:
        count_classes(dataset_name, listed(args), args.root.parent / ".class_statistics")
        return ()

    def check(args: argparse.Namespace) -> Sequence[str]:
        check_sample(listed(args), read_label, args.sample, args.workers)
        return ()

    return run_script(description, folder, holds, make, check, add_sample_option)
