"""The label files that Cityscapes' download lacks: train ids, and panoptic PNG and JSON files.

They are made on first use, or beforehand by ``datasets/prepare_cityscapes.py``. Each file is
written atomically, by one process (with workers) while the others wait; an interrupted run
continues.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
from tqdm import tqdm

from gbw_d2.cityscapes_classes import raw_to_train_id
from gbw_d2.data.formats.cityscapes import (
    CLEAR,
    INSTANCE_SUFFIX,
    LABEL_SUFFIX,
    TRAIN_ID_SUFFIX,
    ImageFiles,
    label_files,
    list_images,
    load_panoptic,
    load_semantic,
    panoptic_json,
)
from gbw_d2.data.formats.files import read_array
from gbw_d2.data.spec import DatasetError
from gbw_d2.files.atomic import naming, put_in_place, write_atomically
from gbw_d2.files.locking import exclusive
from gbw_d2.files.processes import in_processes

# The version in the JSON file, to be raised whenever the same download would give other files. A
# JSON file without a version comes from Cityscapes' own script and is used unchanged.
VERSION = 1
STAMP = "gbw_d2_version"

# Seconds on one core, at 1024 x 2048.
_SECONDS_TRAIN_IDS, _SECONDS_PANOPTIC = 0.03, 0.7
# Below this many items, starting processes costs more than it saves.
_PARALLEL_FROM = 24

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


def check_labels(root: Path, split: str, panoptic: bool, images: ImageFiles = CLEAR) -> None:
    """Checks that all label files of a split exist or can be made, and makes none.

    Args:
        root: the folder with the images and ``gtFine``.
        split: ``"train"`` or ``"val"``.
        panoptic: whether instances are read.
        images: which version of the images.

    Raises:
        DatasetError: downloaded files are missing or inconsistent, or files must be made in a
            folder that is not writable.
    """
    if not _stems_to_make(root, split, panoptic, images):
        (load_panoptic if panoptic else load_semantic)(root, split, images)


def make_labels(
    root: Path,
    split: str,
    panoptic: bool,
    images: ImageFiles = CLEAR,
    workers: int | None = None,
    anew: bool = False,
) -> None:
    """Makes the label files of a split that are missing or of another version.

    Args:
        root: the folder with the images and ``gtFine``.
        split: ``"train"`` or ``"val"``.
        panoptic: whether to make panoptic files in addition to train ids.
        images: which version of the images.
        workers: processes; None = one per processor.
        anew: whether to make the panoptic files even if they exist.

    Raises:
        DatasetError: downloaded files are missing, or the folder is not writable.
    """
    if not (anew or _stems_to_make(root, split, panoptic, images)):
        return
    label_stems(root, split, panoptic, images)  # the lock must not make a folder that is missing
    with exclusive(panoptic_json(root, split)):
        workers = workers or os.cpu_count() or 1
        _make_train_ids(label_stems(root, split, False, images), split, workers)
        if panoptic and (anew or not _panoptic_is_current(root, split)):
            _make_panoptic(root, split, label_stems(root, split, True, images), workers)


def label_stems(
    root: Path, split: str, panoptic: bool = True, images: ImageFiles = CLEAR
) -> list[Path]:
    """Returns the paths of images' downloaded labels, without suffix.

    Images whose labels were not downloaded are left out, as :func:`.cityscapes.load_semantic` does.

    Raises:
        DatasetError: images are missing, or no image has the downloaded files that are needed.
    """
    stems = _stems(root, split, images)
    found = _downloaded(root, split, stems, panoptic)
    if not found:
        raise DatasetError(
            f"{len(stems)} images of split '{split}' but no downloaded label file is there, such "
            f"as '{stems[0]}{INSTANCE_SUFFIX if panoptic else LABEL_SUFFIX}'. Unpack "
            f"gtFine_trainvaltest.zip into '{root}'."
        )
    return found


def _downloaded(root: Path, split: str, stems: Sequence[Path], panoptic: bool) -> list[Path]:
    suffixes = (LABEL_SUFFIX, INSTANCE_SUFFIX) if panoptic else (LABEL_SUFFIX,)
    present = label_files(root, split)
    return [stem for stem in stems if present.issuperset(f"{stem}{end}" for end in suffixes)]


def _stems(root: Path, split: str, images: ImageFiles) -> list[Path]:
    folder = root / "gtFine" / split
    paths = list_images(root, split, images)
    return [folder / path.parent.name / path.name.removesuffix(images.suffix) for path in paths]


def _without_train_ids(stems: Sequence[Path]) -> list[Path]:
    return [stem for stem in stems if not Path(f"{stem}{TRAIN_ID_SUFFIX}").is_file()]


def _stems_to_make(root: Path, split: str, panoptic: bool, images: ImageFiles) -> list[Path]:
    """Returns the stems of images that need label files, after checking that these can be made.

    Raises:
        DatasetError: see :func:`check_labels`.
    """
    stems = _stems(root, split, images)
    anew = panoptic and not _panoptic_is_current(root, split)
    lacking = stems if anew else _without_train_ids(stems)
    todo = _downloaded(root, split, lacking, panoptic=anew)
    if len(lacking) == len(stems) and not todo:
        label_stems(root, split, panoptic, images)
    if not todo:
        return []
    if not os.access(root / "gtFine", os.W_OK):
        raise DatasetError(
            f"label files of split '{split}' are missing and cannot be made, since nothing can be "
            f"written to '{root / 'gtFine'}'. Run `python datasets/prepare_cityscapes.py` as "
            "somebody who may write there, or link the download into a folder of your own."
        )
    return todo


def _panoptic_is_current(root: Path, split: str) -> bool:
    path = panoptic_json(root, split)
    if not path.is_file() or not path.with_suffix("").is_dir():
        return False
    # A damaged file is left unchanged; reading it reports the error.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return json.loads(path.read_text()).get(STAMP, VERSION) == VERSION
    return True


def _run(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, what: str, unit: str
) -> list[Result]:
    """Runs the work with a progress bar, in several processes if worthwhile; an error ends it."""
    bar = partial(tqdm, total=len(items), desc=what, unit=unit, disable=not items)
    workers = min(workers, len(items))
    if workers <= 1:
        return [work(item) for item in bar(items)]
    return list(bar(in_processes(work, items, workers)))


def _announce(what: str, number: int, seconds: float, workers: int) -> None:
    minutes = math.ceil(number * seconds / workers / 60)
    logger.info(
        "Cityscapes: making the %s of %d images in %d process(es), once; about %d min at full size",
        *(what, number, workers, minutes),
    )


def _make_train_ids(stems: Sequence[Path], split: str, workers: int) -> None:
    todo = _without_train_ids(stems)
    if not todo:
        return
    workers = workers if len(todo) >= _PARALLEL_FROM else 1
    _announce(f"train ids (split '{split}')", len(todo), _SECONDS_TRAIN_IDS, workers)
    _run(write_train_ids, todo, workers, f"{split}: train ids", "image")


def write_train_ids(stem: Path) -> None:
    """Maps a ``labelIds`` file to train ids.

    It uses a look-up table instead of drawing the polygons again: drawing differs between versions
    of Pillow, and the result must agree with the files that the benchmark evaluates.
    """
    label = read_array(f"{stem}{LABEL_SUFFIX}", cv2.IMREAD_UNCHANGED)
    encoded = cv2.imencode(".png", raw_to_train_id("cityscapes_id")[label])[1]
    write_atomically(f"{stem}{TRAIN_ID_SUFFIX}", encoded.tobytes())


def _make_panoptic(root: Path, split: str, stems: Sequence[Path], workers: int) -> None:
    gt_folder = root / "gtFine"
    panoptic_json(root, split).with_suffix("").mkdir(exist_ok=True)
    staging_folder(gt_folder, split).mkdir(exist_ok=True)
    cities = sorted({stem.parent.name for stem in stems})
    workers = min(workers, len(cities)) if len(stems) >= _PARALLEL_FROM else 1
    _announce(f"panoptic files (split '{split}')", len(stems), _SECONDS_PANOPTIC, workers)
    convert = partial(convert_city, gt_folder, split)
    _merge_cities(gt_folder, split, _run(convert, cities, workers, f"{split}: panoptic", "city"))


def convert_city(gt_folder: Path, split: str, city: str) -> Path:
    """Runs Cityscapes' own panoptic converter on one city.

    Returns:
        The city's JSON file in the split's staging folder; it exists once the city is done.
    """
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    final = panoptic_json(gt_folder.parent, split)
    staging = staging_folder(gt_folder, split)
    done = staging / f"{city}.json"
    if done.is_file():
        return done
    with naming(staging), tempfile.TemporaryDirectory(dir=staging) as temporary:
        source, output = Path(temporary, "gtFine"), Path(temporary, "output")
        (source / split).mkdir(parents=True)
        output.mkdir()
        (source / split / city).symlink_to((gt_folder / split / city).resolve())
        with contextlib.redirect_stdout(io.StringIO()):
            convert2panoptic(str(source), str(output), useTrainId=True, setNames=[split])
        for path in (output / final.stem).iterdir():
            put_in_place(path, final.with_suffix("") / path.name)
        put_in_place(output / final.name, done)
    return done


def staging_folder(gt_folder: Path, split: str) -> Path:
    """Returns the folder that holds the finished cities of an unfinished split."""
    return gt_folder / f".panoptic_v{VERSION}_{split}"


def _merge_cities(gt_folder: Path, split: str, parts: list[Path]) -> None:
    contents = [json.loads(path.read_text()) for path in sorted(parts)]
    merged = {
        STAMP: VERSION,
        "images": [image for content in contents for image in content["images"]],
        "annotations": [entry for content in contents for entry in content["annotations"]],
        "categories": contents[0]["categories"],
    }
    staging = staging_folder(gt_folder, split)
    write_atomically(panoptic_json(gt_folder.parent, split), json.dumps(merged))
    shutil.rmtree(staging)
