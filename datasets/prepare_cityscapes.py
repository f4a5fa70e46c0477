"""Makes the label files that Cityscapes' download lacks: train ids and panoptic segments.

    python datasets/prepare_cityscapes.py               # makes what is missing in train and val
    python datasets/prepare_cityscapes.py --check       # writes nothing, lists what is missing

It reads `leftImg8bit` and `gtFine` (leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip) and
writes into `gtFine`:

    <split>/<city>/*_gtFine_labelTrainIds.png
    cityscapes_panoptic_<split>_trainId.json and the folder of the same name

An interrupted run goes on where it stopped. The default folder is
`$DETECTRON2_DATASETS/cityscapes`, or `datasets/cityscapes`. Only the oracle needs labels of train:
`--splits val` is enough without it. Exit code 2: something is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import cv2
from prepare_common import problems_of, run_script, warn_of_count
from tqdm import tqdm

from gbw_d2 import keys
from gbw_d2.data.catalog import DatasetError
from gbw_d2.data.formats.cityscapes import (
    TRAIN_ID_SUFFIX,
    load_images,
    load_panoptic,
    load_semantic,
    panoptic_json,
)
from gbw_d2.data.formats.files import few, read_array
from gbw_d2.data.label_spaces import raw_to_train_id
from gbw_d2.data.locking import exclusive

NUM_IMAGES = {"train": 2975, "val": 500}
LABEL_SUFFIX = "_gtFine_labelIds.png"
INSTANCE_SUFFIX = "_gtFine_instanceIds.png"


def label_stems(root: Path, split: str) -> list[Path]:
    """Returns where each image's labels are, without the suffix, after a look at the download.

    Raises:
        DatasetError: images or downloaded label files are missing.
    """
    records = load_images(root, split)
    warn_of_count(len(records), NUM_IMAGES[split], f"split '{split}' of Cityscapes")
    folder = root / "gtFine" / split
    stems = [folder / Path(r[keys.FILE_NAME]).parent.name / r[keys.IMAGE_ID] for r in records]
    wanted = {f"{stem}{suffix}" for stem in stems for suffix in (LABEL_SUFFIX, INSTANCE_SUFFIX)}
    missing = sorted(wanted - {str(path) for path in folder.glob("*/*.png")})
    if missing:
        raise DatasetError(
            f"{len(missing)} downloaded label files are missing: {few(missing)}. Unpack "
            f"gtFine_trainvaltest.zip into '{root}'."
        )
    return stems


def write_train_ids(stem: Path) -> None:
    """Maps a ``labelIds`` file to train ids.

    A look-up rather than drawing the polygons again: the drawing differs between versions of
    Pillow, and the result must agree with the files that the benchmark scores.
    """
    label = read_array(f"{stem}{LABEL_SUFFIX}", cv2.IMREAD_UNCHANGED)
    encoded = cv2.imencode(".png", raw_to_train_id("cityscapes_id")[label])[1]
    temporary = Path(f"{stem}.tmp")
    temporary.write_bytes(encoded.tobytes())
    os.replace(temporary, f"{stem}{TRAIN_ID_SUFFIX}")


def convert_city(gt_folder: Path, split: str, city: str) -> Path:
    """Runs Cityscapes' own panoptic converter on one city.

    Returns:
        The city's JSON file in the split's staging folder; it is there when the city is done.
    """
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    final = panoptic_json(gt_folder.parent, split)
    staging = staging_folder(gt_folder, split)
    done = staging / f"{city}.json"
    if done.is_file():
        return done
    with tempfile.TemporaryDirectory(dir=staging) as temporary:
        source, output = Path(temporary, "gtFine"), Path(temporary, "output")
        (source / split).mkdir(parents=True)
        output.mkdir()
        (source / split / city).symlink_to((gt_folder / split / city).resolve())
        with contextlib.redirect_stdout(io.StringIO()):
            convert2panoptic(str(source), str(output), useTrainId=True, setNames=[split])
        for path in (output / final.stem).iterdir():
            os.replace(path, final.with_suffix("") / path.name)
        os.replace(output / final.name, done)
    return done


def staging_folder(gt_folder: Path, split: str) -> Path:
    """Returns the folder that holds the finished cities of an unfinished split."""
    return gt_folder / f".panoptic_{split}"


def merge_cities(gt_folder: Path, split: str, parts: list[Path]) -> None:
    """Joins the cities' JSON files into the split's and removes the staging folder."""
    contents = [json.loads(path.read_text()) for path in sorted(parts)]
    merged = {
        "images": [image for content in contents for image in content["images"]],
        "annotations": [entry for content in contents for entry in content["annotations"]],
        "categories": contents[0]["categories"],
    }
    staging = staging_folder(gt_folder, split)
    (staging / "merged").write_text(json.dumps(merged))
    os.replace(staging / "merged", panoptic_json(gt_folder.parent, split))
    shutil.rmtree(staging)


def finish(futures: list[Future], description: str, unit: str) -> list:
    """Waits for all, with a progress bar; the first error ends it."""
    for future in tqdm(as_completed(futures), total=len(futures), desc=description, unit=unit):
        future.result()
    return [future.result() for future in futures]


def prepare_split(root: Path, split: str, pool: Executor) -> None:
    """Makes all that is missing in a split."""
    stems = label_stems(root, split)
    todo = [stem for stem in stems if not Path(f"{stem}{TRAIN_ID_SUFFIX}").is_file()]
    finish([pool.submit(write_train_ids, stem) for stem in todo], f"{split}: train ids", "image")
    if not problems_of(load_panoptic, root, split):
        return
    gt_folder = root / "gtFine"
    panoptic_json(root, split).with_suffix("").mkdir(exist_ok=True)
    staging_folder(gt_folder, split).mkdir(exist_ok=True)
    convert = partial(convert_city, gt_folder, split)
    cities = sorted({stem.parent.name for stem in stems})
    parts = finish([pool.submit(convert, city) for city in cities], f"{split}: panoptic", "city")
    merge_cities(gt_folder, split, parts)
    load_panoptic(root, split)


def check_split(root: Path, split: str) -> list[str]:
    """Returns what is wrong with a split, in words."""
    looks = (label_stems, load_semantic, load_panoptic)
    problems = [text for look in looks for text in problems_of(look, root, split)]
    return [f"{split}: {text}" for text in dict.fromkeys(problems)]


def check(args: argparse.Namespace) -> Sequence[str]:
    """Looks over each split."""
    problems = [problem for split in args.splits for problem in check_split(args.root, split)]
    if not problems:
        print(f"{args.root}: {' and '.join(args.splits)} complete")
    return problems


def make(args: argparse.Namespace) -> Sequence[str]:
    """Makes what is missing, then looks."""
    for split in args.splits:
        label_stems(args.root, split)  # a folder that is not there must not be made by the lock
        with exclusive(panoptic_json(args.root, split)), ProcessPoolExecutor(args.workers) as pool:
            prepare_split(args.root, split, pool)
    return check(args)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds this script's options."""
    parser.add_argument("--splits", nargs="+", choices=list(NUM_IMAGES), default=list(NUM_IMAGES))


if __name__ == "__main__":
    sys.exit(run_script(__doc__, "cityscapes", "leftImg8bit and gtFine", make, check, add_options))
