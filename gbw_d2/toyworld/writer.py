"""Writes the toy world in the official layouts, in parallel and resumable."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from gbw_d2.data.spec import DatasetError
from gbw_d2.files.atomic import put_in_place
from gbw_d2.files.locking import exclusive
from gbw_d2.toyworld.folder import MARKER, Job, claim, finish, png_bytes, run_jobs, write_file
from gbw_d2.toyworld.render import ToySample, render
from gbw_d2.toyworld.settings import SPLITS, ToyWorldSettings

SUBFOLDERS = {"source": "synthia", "target": "cityscapes"}
_SOURCE_SUFFIX = {"train": "", "val": "_val"}
CITIES = {"train": ("toyburg", "toyfurt"), "val": ("toystadt",)}


def sample_files(root: Path, domain: str, split: str, index: int) -> dict[str, Path]:
    """Returns the paths of one image's files by role, in the official layout.

    Args:
        root: folder of the toy world.
        domain: "source" or "target".
        split: "train" or "val".
        index: number of the image within its split.

    Returns:
        ``image`` and, in the source, ``labels``; in the target, ``labelIds``, ``instanceIds``
        and ``labelTrainIds``.
    """
    base = Path(root) / SUBFOLDERS[domain]
    if domain == "source":
        # SYNTHIA's layout has no folders for splits.
        base, name = base.with_name(base.name + _SOURCE_SUFFIX[split]), f"{index:07d}.png"
        return {"labels": base / "GT" / "LABELS" / name, "image": base / "RGB" / name}
    city = CITIES[split][index % len(CITIES[split])]
    stem = f"{city}_{index:06d}_000019"
    kinds = ("labelIds", "instanceIds", "labelTrainIds")
    files = {k: base / "gtFine" / split / city / f"{stem}_gtFine_{k}.png" for k in kinds}
    files["image"] = base / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
    return files


def synthia_label(sample: ToySample) -> np.ndarray:
    """Returns SYNTHIA's labels, (H, W, 3) uint16 in OpenCV's order: 0, instance, class."""
    zero = np.zeros(sample.raw_map.shape, dtype=np.uint16)
    return np.dstack(
        (zero, sample.instance_map.astype(np.uint16), sample.raw_map.astype(np.uint16))
    )


def cityscapes_instance_ids(sample: ToySample) -> np.ndarray:
    """Returns Cityscapes' instanceIds, (H, W) uint16: id * 1000 + k on instances, else the id."""
    labels = sample.raw_map.astype(np.uint16)
    ids, first = np.unique(sample.instance_map, return_index=True)
    table = np.zeros(ids.max() + 1, dtype=np.uint16)
    seen: dict[int, int] = {}
    for i, at in zip(ids, first, strict=True):
        label = int(labels.flat[at])
        if i:
            table[i] = label * 1000 + seen.setdefault(label, 0)
            seen[label] += 1
    return np.where(sample.instance_map > 0, table[sample.instance_map], labels)


def cityscapes_labels(sample: ToySample) -> dict[str, np.ndarray]:
    """Returns Cityscapes' label images by role."""
    return {
        "labelIds": sample.raw_map,
        "instanceIds": cityscapes_instance_ids(sample),
        "labelTrainIds": sample.class_map,
    }


def pictures(domain: str, sample: ToySample) -> dict[str, np.ndarray]:
    """Returns the content of one image's files, by the roles of :func:`sample_files`."""
    source = domain == "source"
    labels = {"labels": synthia_label(sample)} if source else cityscapes_labels(sample)
    return {**labels, "image": cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR)}


def _write_sample(root: Path, settings: ToyWorldSettings, job: Job) -> None:
    files = sample_files(root, *job)
    for role, picture in pictures(job[0], render(settings, *job)).items():
        write_file(files[role], png_bytes(picture))


def write_panoptic(labels: Path, split: str) -> None:
    """Makes Cityscapes' panoptic PNGs and JSON with the official function.

    Args:
        labels: the folder ``gtFine``.
        split: "train" or "val".
    """
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    name = f"cityscapes_panoptic_{split}_trainId"
    draft = labels / f"{name}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        convert2panoptic(str(labels), str(draft), useTrainId=True, setNames=[split])
    shutil.rmtree(labels / name, ignore_errors=True)
    put_in_place(draft / name, labels / name)
    put_in_place(draft / f"{name}.json", labels / f"{name}.json")
    draft.rmdir()


def _panoptic_is_complete(root: Path, settings: ToyWorldSettings, split: str) -> bool:
    labels, name = root / SUBFOLDERS["target"] / "gtFine", f"cityscapes_panoptic_{split}_trainId"
    if not (labels / f"{name}.json").is_file():
        return False
    stems = (
        sample_files(root, "target", split, i)["labelIds"].name.removesuffix("_labelIds.png")
        for i in range(settings.num_images("target", split))
    )
    return all((labels / name / f"{stem}_panoptic.png").is_file() for stem in stems)


def _jobs(settings: ToyWorldSettings) -> Iterator[Job]:
    for domain, splits in SPLITS.items():
        for split in splits:
            for index in range(settings.num_images(domain, split)):
                yield domain, split, index


def _missing(root: Path, settings: ToyWorldSettings) -> list[Job]:
    return [
        job
        for job in _jobs(settings)
        if not all(path.is_file() for path in sample_files(root, *job).values())
    ]


def write_toy_world(root: Path, settings: ToyWorldSettings, workers: int | None = None) -> None:
    """Writes the missing files of a toy world.

    Args:
        root: folder to write to: empty, absent, or a toy world of the same settings.
        settings: the world.
        workers: number of processes; None = one per processor.

    Raises:
        DatasetError: the folder holds something else, or a world of other settings.
    """
    root = Path(root)
    with exclusive(root):
        claim(root, settings.as_json())
        _write_missing(root, settings, workers)
        finish(root, settings.as_json())


def _write_missing(root: Path, settings: ToyWorldSettings, workers: int | None) -> None:
    missing = _missing(root, settings)
    for job in missing:
        for path in sample_files(root, *job).values():
            path.parent.mkdir(parents=True, exist_ok=True)
    run_jobs(partial(_write_sample, root, settings), missing, workers)
    for split in SPLITS["target"]:
        if not _panoptic_is_complete(root, settings, split):
            write_panoptic(root / SUBFOLDERS["target"] / "gtFine", split)


def ensure_toy_world(root: Path, settings: ToyWorldSettings | None = None) -> None:
    """Writes the toy world unless a finished one with these settings exists.

    Args:
        root: folder of the toy world.
        settings: the world; None = the default one.

    Raises:
        DatasetError: the folder holds something else, or a world of other settings.
    """
    root, settings = Path(root), settings or ToyWorldSettings()
    if not ((root / MARKER).is_file() and claim(root, settings.as_json())):
        write_toy_world(root, settings)


def check_toy_world(root: Path, settings: ToyWorldSettings | None = None) -> None:
    """Checks that a finished toy world with these settings exists and no file is missing.

    Args:
        root: folder of the toy world.
        settings: the world; None = the default one.

    Raises:
        DatasetError: it does not; the message says what to do.
    """
    root, settings = Path(root), settings or ToyWorldSettings()
    remedy = "run `python datasets/prepare_toy.py` with the same options"
    if not (root / MARKER).is_file():
        raise DatasetError(f"{root} holds no finished toy world ({MARKER} is not there); {remedy}")
    claim(root, settings.as_json())
    incomplete = [s for s in SPLITS["target"] if not _panoptic_is_complete(root, settings, s)]
    missing = _missing(root, settings)
    if missing or incomplete:
        raise DatasetError(
            f"{root}: {len(missing)} images lack files, panoptic labels are incomplete in "
            f"{incomplete or 'no split'}; {remedy}"
        )
