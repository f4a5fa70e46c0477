"""Makes the toy world: procedurally generated street datasets in SYNTHIA's and Cityscapes' layouts.

    python datasets/prepare_toy.py                     # 1300 images, half a minute on two cores
    python datasets/prepare_toy.py --check             # is it complete? what is in it?
    python datasets/prepare_toy.py --preview toy.png   # only a contact sheet
    python datasets/prepare_toy.py --layout gta5       # the toy counterpart of another dataset
    python datasets/prepare_toy.py --layout large      # both domains, 4400 images of 256 x 512

An interrupted run continues where it stopped. The default folder is `$DETECTRON2_DATASETS/toy`, or
`datasets/toy`; a further layout is beside it, in `toy_<layout>`. Exit code 2: it is incomplete.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from prepare_common import add_sample_option, check_dataset, run_script

from gbw_d2.catalog import get_dataset
from gbw_d2.catalog.toy import toy_specs
from gbw_d2.cityscapes_classes import CLASSES
from gbw_d2.data.formats.own import read_description
from gbw_d2.data.spec import DatasetError, DatasetSpec
from gbw_d2.toyworld import (
    DOMAINS,
    ToyWorldSettings,
    check_toy_world,
    render,
    write_toy_world,
)
from gbw_d2.toyworld.layouts import LAYOUTS, check_layout, write_layout
from gbw_d2.visualization import write_png


def contact_sheet(
    settings: ToyWorldSettings, domain: str, split: str, indices: list[int]
) -> np.ndarray:
    """Returns images beside their coloured labels, two pairs in a row, as uint8 RGB."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(CLASSES)] = [c.color for c in CLASSES]
    samples = [render(settings, domain, split, i) for i in indices]
    cells = [np.hstack((s.image, palette[s.class_map])) for s in samples]
    return np.vstack([np.hstack(cells[i : i + 2]) for i in range(0, len(cells) - 1, 2)])


def write_preview(
    path: Path, settings: ToyWorldSettings, splits: Sequence[tuple[str, str]]
) -> None:
    """Writes a contact sheet of some (domain, split) pairs, one above the other."""
    sheets = [contact_sheet(settings, *pair, list(range(6))) for pair in splits]
    write_png(path, np.vstack(sheets))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds this script's options."""
    parser.add_argument("--seed", type=int, help="seed of every random draw; default: 0")
    parser.add_argument(
        "--images",
        type=int,
        help="images of the source and of the target's training split (600 each)",
    )
    parser.add_argument(
        "--layout", choices=LAYOUTS.names(), help="write only the images of this layout"
    )
    parser.add_argument(
        "--preview",
        type=Path,
        help="only write a contact sheet to this PNG file; with --layout, of the layout's scenes",
    )
    add_sample_option(parser)


def settings_of(args: argparse.Namespace) -> ToyWorldSettings:
    """Returns the settings of the toy world by the arguments.

    Raises:
        DatasetError: --layout together with --seed or --images, which a layout sets itself.
    """
    if args.layout:
        for name in ("seed", "images"):
            if getattr(args, name) is not None:
                raise DatasetError(
                    f"--{name} is for the toy world alone; layout '{args.layout}' has its own: "
                    "leave one of the two out"
                )
        return LAYOUTS.get(args.layout).settings
    counts = (
        {} if args.images is None else {"num_source": args.images, "num_target_train": args.images}
    )
    return ToyWorldSettings(seed=args.seed or 0, **counts)


def make(args: argparse.Namespace) -> Sequence[str]:
    """Writes the data or the preview that the arguments select."""
    settings = settings_of(args)
    if args.preview:
        splits: Sequence[tuple[str, str]] = [(domain, "train") for domain in DOMAINS]
        if args.layout:
            splits = LAYOUTS.get(args.layout).splits
        write_preview(args.preview, settings, splits)
        return ()
    if args.layout:
        write_layout(layout_root(args), LAYOUTS.get(args.layout), args.workers)
    else:
        write_toy_world(args.root, settings, args.workers)
    return check(args)


def check(args: argparse.Namespace) -> Sequence[str]:
    """Checks that it exists and is complete, and reads some of its labels."""
    root, settings = layout_root(args), settings_of(args)
    if args.layout:
        check_layout(root, LAYOUTS.get(args.layout))
    else:
        check_toy_world(root, settings)
    print(f"{root}: complete")
    specs = labelled_datasets(root, args.layout)
    return [problem for spec in specs for problem in check_dataset(spec, spec.load(), args)]


def labelled_datasets(root: Path, layout: str | None) -> list[DatasetSpec]:
    """Returns the labelled datasets of a folder, each only once, with instances if possible."""
    if layout == "own":
        file = root / "data.yaml"
        found = [get_dataset(f"{file}:{name}") for name in read_description(file).splits]
    else:
        found = list(toy_specs(layout or "", lambda: root))
    names = {spec.name for spec in found}
    return [
        spec
        for spec in found
        if spec.is_labelled
        and (spec.read_panoptic or spec.name.replace("_semantic_", "_panoptic_") not in names)
    ]


def layout_root(args: argparse.Namespace) -> Path:
    """Returns the folder of the data by the arguments."""
    return args.root.with_name(f"{args.root.name}_{args.layout}") if args.layout else args.root


if __name__ == "__main__":
    sys.exit(run_script(__doc__, "toy", "the toy world", make, check, add_options))
