"""Writes the toy world in the official layouts, in parallel and resumably."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from gbw_d2.data.catalog import DatasetError
from gbw_d2.data.toyworld.render import ToySample, render
from gbw_d2.data.toyworld.settings import SPLITS, ToyWorldSettings

SUBFOLDERS = {"source": "synthia", "target": "cityscapes"}
MARKER = "toyworld.json"
PROGRESS_MARKER = "toyworld.in_progress.json"
CITIES = {"train": ("toyburg", "toyfurt"), "val": ("toystadt",)}
# Below this many images, starting other processes costs more than it saves.
_PARALLEL_FROM = 24

Job = tuple[str, str, int]


def sample_files(root: Path, domain: str, split: str, index: int) -> dict[str, Path]:
    """Returns the files of one image by role, in the official layout.

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
        name = f"{index:07d}.png"
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


def _pictures(domain: str, sample: ToySample) -> dict[str, np.ndarray]:
    image = cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR)
    if domain == "source":
        return {"labels": synthia_label(sample), "image": image}
    return {
        "labelIds": sample.raw_map,
        "instanceIds": cityscapes_instance_ids(sample),
        "labelTrainIds": sample.class_map,
        "image": image,
    }


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _write_sample(root: Path, settings: ToyWorldSettings, job: Job) -> None:
    files = sample_files(root, *job)
    for role, picture in _pictures(job[0], render(settings, *job)).items():
        done, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 3])
        if not done:
            raise DatasetError(f"OpenCV could not encode {files[role]}")
        _write(files[role], data.tobytes())


def _write_panoptic(root: Path, split: str) -> None:
    """Makes Cityscapes' panoptic PNGs and JSON with the official function."""
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    labels, name = root / SUBFOLDERS["target"] / "gtFine", f"cityscapes_panoptic_{split}_trainId"
    draft = root / f"{name}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        convert2panoptic(str(labels), str(draft), useTrainId=True, setNames=[split])
    shutil.rmtree(labels / name, ignore_errors=True)
    os.replace(draft / name, labels / name)
    os.replace(draft / f"{name}.json", labels / f"{name}.json")
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


def _read_marker(path: Path) -> dict[str, object]:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path} is not JSON ({error}); it marks a toy world: delete the folder {path.parent} "
            "or choose another"
        ) from error


def _claim(root: Path, settings: ToyWorldSettings) -> bool:
    """Makes sure that the folder is ours and of these settings.

    Returns:
        True when the world in it was finished.

    Raises:
        DatasetError: the folder holds something else, or a world of other settings.
    """
    wanted = settings.as_json()
    for name in (MARKER, PROGRESS_MARKER):
        if not (root / name).is_file():
            continue
        found = _read_marker(root / name)
        keys = [k for k in {**wanted, **found} if wanted.get(k) != found.get(k)]
        if keys:
            differences = ", ".join(f"{k} is {found.get(k)}, not {wanted.get(k)}" for k in keys)
            raise DatasetError(
                f"{root} holds a toy world of other settings: {differences}. Choose another "
                "folder, or delete this one"
            )
        return name == MARKER
    if root.exists() and any(root.iterdir()):
        raise DatasetError(
            f"{root} is not empty and no toy world ({MARKER} is not there); nothing was written. "
            "Choose another folder, or empty this one"
        )
    root.mkdir(parents=True, exist_ok=True)
    _write(root / PROGRESS_MARKER, (json.dumps(wanted, indent=2) + "\n").encode())
    return False


def _start_worker() -> None:
    cv2.setNumThreads(0)


def _run(work: Callable[[Job], None], jobs: list[Job], workers: int) -> None:
    bar = partial(tqdm, total=len(jobs), desc="toy world", unit="image", disable=not jobs)
    if workers <= 1 or len(jobs) < _PARALLEL_FROM:
        for job in bar(jobs):
            work(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        for _ in bar(pool.map(work, jobs, chunksize=4)):
            pass


def write_toy_world(root: Path, settings: ToyWorldSettings, workers: int | None = None) -> None:
    """Writes a toy world, or what is missing of it; a finished one is looked through file by file.

    Args:
        root: folder to write to: empty, absent, or a toy world of the same settings.
        settings: the world.
        workers: number of processes; None = one per processor.

    Raises:
        DatasetError: the folder holds something else, or a world of other settings.
    """
    root = Path(root)
    _claim(root, settings)
    missing = _missing(root, settings)
    for job in missing:
        for path in sample_files(root, *job).values():
            path.parent.mkdir(parents=True, exist_ok=True)
    _run(partial(_write_sample, root, settings), missing, workers or os.cpu_count() or 1)
    for split in SPLITS["target"]:
        if not _panoptic_is_complete(root, settings, split):
            _write_panoptic(root, split)
    _write(root / MARKER, (json.dumps(settings.as_json(), indent=2) + "\n").encode())
    (root / PROGRESS_MARKER).unlink(missing_ok=True)


def ensure_toy_world(root: Path, settings: ToyWorldSettings | None = None) -> None:
    """Writes the toy world unless it is there, finished and of these settings.

    Args:
        root: folder of the toy world.
        settings: the world; None = the default one.

    Raises:
        DatasetError: the folder holds something else, or a world of other settings.
    """
    settings = settings or ToyWorldSettings()
    if not _claim(Path(root), settings):
        write_toy_world(root, settings)


def check_toy_world(root: Path, settings: ToyWorldSettings | None = None) -> None:
    """Looks whether a toy world is there, finished, of these settings and without a missing file.

    Args:
        root: folder of the toy world.
        settings: the world; None = the default one.

    Raises:
        DatasetError: what is wrong with it and how to mend it.
    """
    root, settings = Path(root), settings or ToyWorldSettings()
    remedy = "run `python datasets/prepare_toy.py` with the same options"
    if not (root / MARKER).is_file():
        raise DatasetError(f"{root} holds no finished toy world ({MARKER} is not there); {remedy}")
    _claim(root, settings)
    incomplete = [s for s in SPLITS["target"] if not _panoptic_is_complete(root, settings, s)]
    missing = _missing(root, settings)
    if missing or incomplete:
        raise DatasetError(
            f"{root}: {len(missing)} images lack files, panoptic labels are incomplete in "
            f"{incomplete or 'no split'}; {remedy}"
        )
