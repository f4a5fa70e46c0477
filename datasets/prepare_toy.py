"""Makes the toy world: procedural street data sets in SYNTHIA's and Cityscapes' layouts.

    python datasets/prepare_toy.py                     # 1300 images, half a minute on two cores
    python datasets/prepare_toy.py --check             # is it there and whole?
    python datasets/prepare_toy.py --preview toy.png   # a contact sheet and nothing else

An interrupted run goes on where it stopped. The default folder is `$DETECTRON2_DATASETS/toy`, or
`datasets/toy`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gbw_d2.data.catalog import DatasetError, datasets_root
from gbw_d2.data.label_spaces import CLASSES
from gbw_d2.data.toyworld import (
    DOMAINS,
    ToyWorldSettings,
    check_toy_world,
    render,
    write_toy_world,
)


def contact_sheet(settings: ToyWorldSettings, domain: str, indices: list[int]) -> np.ndarray:
    """Returns images beside their coloured labels, two pairs in a row, as uint8 RGB."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(CLASSES)] = [c.color for c in CLASSES]
    samples = [render(settings, domain, "train", i) for i in indices]
    cells = [np.hstack((s.image, palette[s.class_map])) for s in samples]
    return np.vstack([np.hstack(cells[i : i + 2]) for i in range(0, len(cells) - 1, 2)])


def write_preview(path: Path, settings: ToyWorldSettings) -> None:
    """Writes a contact sheet of both domains, the source above the target."""
    sheets = [contact_sheet(settings, domain, list(range(6))) for domain in DOMAINS]
    if not cv2.imwrite(str(path), cv2.cvtColor(np.vstack(sheets), cv2.COLOR_RGB2BGR)):
        raise DatasetError(
            f"could not write {path}; give a path that ends in .png in a folder that exists"
        )


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=datasets_root() / "toy", help="folder to write"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    parser.add_argument(
        "--images",
        type=int,
        help="images of the source and of the target's training split (600 each)",
    )
    parser.add_argument("--workers", type=int, help="processes; as many as processors by default")
    parser.add_argument(
        "--check", action="store_true", help="only look whether it is there and whole"
    )
    parser.add_argument("--preview", type=Path, help="only write a contact sheet to this PNG file")
    return parser.parse_args()


def main() -> int:
    """Runs the command; returns its exit code."""
    args = parse_arguments()
    counts = (
        {} if args.images is None else {"num_source": args.images, "num_target_train": args.images}
    )
    try:
        settings = ToyWorldSettings(seed=args.seed, **counts)
        if args.preview:
            write_preview(args.preview, settings)
        elif args.check:
            check_toy_world(args.root, settings)
            print(f"{args.root}: complete")
        else:
            write_toy_world(args.root, settings, args.workers)
            print(f"{args.root}: complete")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
