"""Shared parts of the prepare scripts: command line, checks of datasets, exit codes.

Importing it also makes the package importable from a checkout that is not installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gbw_d2 import keys
from gbw_d2.catalog import get_dataset
from gbw_d2.commands import DONE, USER_ERROR, finish
from gbw_d2.data.formats.cityscapes import CITY_IMAGES
from gbw_d2.data.formats.files import check_size, few, read_image
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record, datasets_root
from gbw_d2.data.statistics import image_class_counts
from gbw_d2.data.survey import (
    Look,
    Survey,
    all_void,
    look_at_label,
    of_counts,
    summary,
    suspicions,
    table,
)
from gbw_d2.label_spaces import LabelSpace

Work = Callable[[argparse.Namespace], Sequence[str]]
MAX_PROBLEMS = 10
AGAIN = "the same command continues where this one stopped"


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
        folder: name of the dataset's folder below the datasets' root; None for no folder and no
            option ``--root``.
        holds: content of that folder, for ``--help``.
        make: makes missing files and checks all; called with the arguments, returns problems as
            messages.
        check: the same for ``--check``; it writes nothing.
        add_options: adds the script's own options.

    Returns:
        The exit code: 0, or 2 if files are missing or invalid.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if folder is not None:
        parser.add_argument(
            "--root", type=Path, default=datasets_root() / folder, help=f"folder with {holds}"
        )
    parser.add_argument("--check", action="store_true", help="only check; write nothing")
    parser.add_argument(
        "--workers", type=int, help="threads or processes; default: one per processor"
    )
    add_options(parser)
    args = parser.parse_args()
    return finish(partial(_tell_problems, check if args.check else make, args), AGAIN)


def _tell_problems(work: Work, args: argparse.Namespace) -> int:
    try:
        problems = work(args)
    # ValueError: invalid settings of the toy world.
    except ValueError as error:
        problems = [f"not usable: {error}"]
    for problem in problems:
        print(problem, file=sys.stderr)
    return USER_ERROR if problems else DONE


def add_sample_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--sample``, the number of images that ``--check`` reads."""
    parser.add_argument(
        "--sample", type=int, default=100, help="with --check: images to read, 0 = all (100)"
    )


def warn_of_count(
    found: int, expected: int, what: str = "the whole dataset", scored: bool = False
) -> None:
    """Warns if a dataset has another number of images than its release.

    Args:
        found: images.
        expected: images of the release.
        what: description of the release.
        scored: whether it is a test set.
    """
    if found != expected:
        partial = "; scores of a part of it are called ..._partial" if scored else ""
        print(f"warning: {found} images, {what} has {expected}{partial}")


def warn_of_cities(found: Sequence[str], split: str) -> None:
    """Warns of Cityscapes' cities that lack images; ``found`` names the city of every image."""
    counts = Counter(found)
    short = [
        f"{city} has {counts[city]} of {expected}"
        for city, expected in CITY_IMAGES[split].items()
        if counts[city] < expected
    ]
    if short:
        print(f"warning: unpack the images of split '{split}' again: {few(short, 6)}")


def tell_sizes(records: list[Record], expected: tuple[int, int] | None = None) -> None:
    """Prints the images' sizes, and a warning if some are not ``expected`` (rows, columns)."""
    counts = Counter((r[keys.HEIGHT], r[keys.WIDTH]) for r in records).most_common()
    sizes = [f"{rows} x {columns}: {number}" for (rows, columns), number in counts]
    print(f"sizes (rows x columns): {few(sizes, 5)}")
    if expected is not None and {size for size, _ in counts} != {expected}:
        other = [r[keys.FILE_NAME] for r in records if (r[keys.HEIGHT], r[keys.WIDTH]) != expected]
        print(
            f"warning: {len(other)} images are not {expected[0]} x {expected[1]} as in the "
            f"release: {few(other)}"
        )


@dataclass(frozen=True)
class Release:
    """The content of a download whose images are numbered.

    Args:
        first: number of the first image.
        count: number of images.
        digits: number of digits in a file's name.
        archives: folder -> number of an image -> the archive that holds its file there.
        size: (rows, columns) of every image; None if there are several sizes.
    """

    first: int
    count: int
    digits: int
    archives: Mapping[str, Callable[[int], str]]
    size: tuple[int, int] | None = None


def warn_of_numbers(root: Path, release: Release) -> None:
    """Warns of numbers that a folder lacks, and names the archives that hold them."""
    for folder, archive_of in release.archives.items():
        present = {path.stem for path in (root / folder).glob("*.png")}
        numbers = range(release.first, release.first + release.count)
        missing = [n for n in numbers if f"{n:0{release.digits}d}" not in present]
        if not missing:
            continue
        archives = list(dict.fromkeys(archive_of(n) for n in missing))
        print(
            f"warning: '{root / folder}' lacks {len(missing)} of {release.count} files: "
            f"{few(spans(missing, release.digits), 6)}. Unpack again: {few(archives, 10)}"
        )


def spans(numbers: Sequence[int], digits: int) -> list[str]:
    """Returns ascending numbers as text, with ranges: ``00003``, ``00007-00009``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ["-".join(f"{number:0{digits}d}" for number in run) for run in runs]


def check_sample(
    records: list[Record],
    read_label: Callable[[Record], object] | None,
    sample: int,
    workers: int | None = None,
    space: LabelSpace | None = None,
) -> list[str]:
    """Reads images and their labels, evenly spread over a dataset, and prints their classes.

    Args:
        records: the dataset's.
        read_label: raises an error if a label cannot be used; None if there are no labels.
        sample: number of images that are read; 0 reads all.
        workers: threads; None = one per processor.
        space: classes of the labels that ``read_label`` returns; None for no table of classes.

    Returns:
        Problems as messages: the first ten, and the number of the others.
    """

    looks: list[Look] = []

    def read(record: Record) -> None:
        path = record[keys.FILE_NAME]
        check_size(read_image(path, "RGB"), record[keys.HEIGHT], record[keys.WIDTH], path)
        label = None if read_label is None else read_label(record)
        if space is not None and label is not None:
            looks.append(look_at_label(path, label))
            panoptic.append(isinstance(label, tuple))

    def problems(record: Record) -> list[str]:
        return problems_of(read, record)

    panoptic: list[bool] = []
    chosen = spread(records, sample)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        bar = tqdm(pool.map(problems, chosen), total=len(chosen), desc="checking", unit="image")
        found = [problem for each in bar for problem in each]
    what = "images" if read_label is None else "images and labels"
    verdict = f"{len(found)} cannot be used" if found else "all good"
    print(f"read {len(chosen)} of {len(records)} {what}: {verdict}")
    return first_ones(found) + tell_classes(summary(space, looks, [], any(panoptic)))


def first_ones(problems: list[str]) -> list[str]:
    """Returns the first problems, and the number of the others."""
    rest = len(problems) - MAX_PROBLEMS
    return problems[:MAX_PROBLEMS] + ([f"and {rest} more"] if rest > 0 else [])


def spread(records: list[Record], sample: int) -> list[Record]:
    """Returns ``sample`` records, evenly spread; all if it is 0 or more than there are."""
    if not 0 < sample < len(records):
        return records
    return [records[len(records) * i // sample] for i in range(sample)]


def tell_classes(found: Survey) -> list[str]:
    """Prints classes, instances and warnings; returns problems."""
    if found.space is None or not found.number:
        return []
    print(table(found))
    for words in suspicions(found):
        print(f"warning: {words}")
    return all_void(found)


def problems_of(look: Callable[..., object], *arguments: object) -> list[str]:
    """Returns the error that a check raises as a list, or an empty list."""
    try:
        look(*arguments)
    except DatasetError as error:
        return [str(error)]
    return []


def collect(look: Callable[..., list[str]], *arguments: object) -> list[str]:
    """Returns the problems that a check returns, or the error that it raises."""
    try:
        return look(*arguments)
    except DatasetError as error:
        return [str(error)]


def check_dataset(
    spec: DatasetSpec,
    records: list[Record],
    args: argparse.Namespace,
    num_images: int | None = None,
    size: tuple[int, int] | None = None,
) -> list[str]:
    """Checks number and sizes of the images of a dataset and reads some with their labels.

    Args:
        spec: the dataset.
        records: its records.
        args: the script's arguments (``--sample``, ``--workers``).
        num_images: number of images of the whole release; None if it is not known.
        size: (rows, columns) of every image of the release; None if there are several sizes.

    Returns:
        Problems as messages.
    """
    print(f"{spec.name}: {len(records)} images")
    if num_images is not None:
        warn_of_count(len(records), num_images, scored=spec.name.endswith("_val"))
    tell_sizes(records, size)
    return check_labels(spec, records, args)


def check_labels(spec: DatasetSpec, records: list[Record], args: argparse.Namespace) -> list[str]:
    """Reads some images of a dataset with all their labels, and prints their classes."""
    reader = spec.read_panoptic or spec.read_semantic
    space = None if reader is None else spec.classes
    return check_sample(records, reader, args.sample, args.workers, space)


def count_classes(spec: DatasetSpec, records: list[Record], folder: Path) -> list[str]:
    """Counts the classes of all labels, which also checks every label, and prints a table.

    Args:
        spec: a labelled dataset.
        records: its records.
        folder: folder of the counts.

    Returns:
        Problems as messages.
    """
    counts = image_class_counts(spec, records, folder)
    print(f"class statistics are in {folder}")
    return tell_classes(of_counts(spec.classes, counts, records))


def run_script_of_parts(
    description: str | None,
    folder: str,
    holds: str,
    option: str,
    parts: Sequence[str],
    check_part: Callable[[argparse.Namespace, str], list[str]],
) -> int:
    """Runs the prepare script of a dataset in parts, whose files are used as downloaded.

    Args:
        description: the script's docstring.
        folder: name of the dataset's folder below the datasets' root.
        holds: content of that folder.
        option: name of the option that chooses parts, such as ``cities``.
        parts: names of all.
        check_part: (arguments, part) -> problems as messages.

    Returns:
        The exit code.
    """

    def check(args: argparse.Namespace) -> Sequence[str]:
        chosen = getattr(args, option)
        return [problem for part in chosen for problem in collect(check_part, args, part)]

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(f"--{option}", nargs="+", choices=parts, default=list(parts))
        add_sample_option(parser)

    return run_script(description, folder, holds, check, check, add_options)


def run_source_script(
    description: str | None,
    folder: str,
    holds: str,
    dataset_name: str,
    release: Release,
    load: Callable[[Path], list[Record]],
) -> int:
    """Runs the prepare script of a labelled source whose files are used as downloaded.

    Args:
        description: the script's docstring.
        folder: name of the dataset's folder below the datasets' root.
        holds: content of that folder.
        dataset_name: the dataset whose labels are read, with instances if it has any.
        release: content of the whole download.
        load: root -> records.

    Returns:
        The exit code.
    """

    def listed(args: argparse.Namespace) -> list[Record]:
        warn_of_numbers(args.root, release)
        records = load(args.root)
        warn_of_count(len(records), release.count)
        tell_sizes(records, release.size)
        return records

    def make(args: argparse.Namespace) -> Sequence[str]:
        statistics = args.root.parent / ".class_statistics"
        return count_classes(get_dataset(dataset_name), listed(args), statistics)

    def check(args: argparse.Namespace) -> Sequence[str]:
        return check_labels(get_dataset(dataset_name), listed(args), args)

    return run_script(description, folder, holds, make, check, add_sample_option)
