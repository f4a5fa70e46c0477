"""Checks SYNTHIA-RAND-CITYSCAPES and counts its classes; its files are used as downloaded.

    python datasets/prepare_synthia.py                  # reads and counts all 9400 labels
    python datasets/prepare_synthia.py --check          # writes nothing, reads 100 of them
    python datasets/prepare_synthia.py --check --sample 0        # ... reads all of them

The default folder is `$DETECTRON2_DATASETS/synthia`, or `datasets/synthia`. Exit code 2: it cannot
be used as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gbw_d2 import keys
from gbw_d2.data.catalog import DatasetError, Record, datasets_root
from gbw_d2.data.formats.files import check_size, read_image
from gbw_d2.data.formats.synthia import load_synthia, read_raw_label
from gbw_d2.data.label_spaces import CLASSES
from gbw_d2.data.statistics import image_class_counts

NUM_IMAGES = 9400


def check_record(record: Record) -> None:
    """Reads an image and its label; both raise where they cannot be used."""
    path = record[keys.FILE_NAME]
    check_size(read_image(path, "RGB"), record[keys.HEIGHT], record[keys.WIDTH], path)
    read_raw_label(record)


def check(records: list[Record], sample: int) -> None:
    """Checks ``sample`` records, spread evenly; 0 checks all."""
    step = max(len(records) // sample, 1) if sample else 1
    chosen = records[::step]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(tqdm(pool.map(check_record, chosen), total=len(chosen), desc="checking", unit="image"))
    print(f"read {len(chosen)} of {len(records)} images and labels: all good")


def count(records: list[Record], root: Path) -> None:
    """Counts the classes of all labels, which also checks every label, and prints a table."""
    folder = root.parent / ".class_statistics"
    counts = image_class_counts("synthia_semantic_train", records, folder)
    share = counts.sum(axis=0) / counts.sum()
    print(f"{'class':14} {'share of pixels':>15} {'images':>7}")
    for c in CLASSES:
        images = int((counts[:, c.train_id] > 0).sum())
        print(f"{c.name:14} {100 * share[c.train_id]:14.3f}% {images:7d}")
    print(f"class statistics are in {folder}")


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=datasets_root() / "synthia",
        help="folder with RGB and GT/LABELS",
    )
    parser.add_argument("--check", action="store_true", help="only check; write nothing")
    parser.add_argument(
        "--sample", type=int, default=100, help="with --check: images to read, 0 = all (100)"
    )
    return parser.parse_args()


def main() -> int:
    """Runs the command; returns its exit code."""
    args = parse_arguments()
    try:
        records = load_synthia(args.root)
        if len(records) != NUM_IMAGES:
            print(f"warning: {len(records)} images, the whole dataset has {NUM_IMAGES}")
        if args.check:
            check(records, args.sample)
        else:
            count(records, args.root)
    except DatasetError as error:
        print(f"not usable: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
