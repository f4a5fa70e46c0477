"""A folder of toy images with a marker file of its settings, written in parallel and resumable.

Every toy dataset is a list of jobs, each of which writes the files of one image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from gbw_d2.data.spec import DatasetError
from gbw_d2.files.atomic import write_atomically
from gbw_d2.files.processes import in_processes
from gbw_d2.plain_files import ContentError, read_json

MARKER = "toyworld.json"
PROGRESS_MARKER = "toyworld.in_progress.json"
# With fewer images, starting further processes takes more time than it saves.
_PARALLEL_FROM = 24

Job = tuple[str, str, int]

# Safe without process ids in names: the folder is locked, and each file belongs to one job.
write_file = partial(write_atomically, alone=True)


def png_bytes(picture: np.ndarray) -> bytes:
    """Encodes an array as PNG; colour channels in OpenCV's order, blue first."""
    done, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise DatasetError("OpenCV could not encode a PNG file")
    return data.tobytes()


def read_marker(path: Path) -> dict[str, Any]:
    """Reads a marker file."""
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ContentError(f"found a {type(content).__name__}")
    except ContentError as error:
        raise DatasetError(
            f"{path} is not JSON ({error}); it marks a toy world: delete the folder {path.parent} "
            "or choose another"
        ) from error
    return content


def claim(root: Path, wanted: dict[str, Any]) -> bool:
    """Checks that a folder is a toy world of these settings, or marks an empty one as such.

    Args:
        root: the folder.
        wanted: the settings as written to the marker.

    Returns:
        Whether the toy world in it is finished.

    Raises:
        DatasetError: the folder holds other files, or a world of other settings.
    """
    for name in (MARKER, PROGRESS_MARKER):
        if not (root / name).is_file():
            continue
        found = read_marker(root / name)
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
    write_file(root / PROGRESS_MARKER, (json.dumps(wanted, indent=2) + "\n").encode())
    return False


def finish(root: Path, wanted: dict[str, Any]) -> None:
    """Marks a folder as finished."""
    write_file(root / MARKER, (json.dumps(wanted, indent=2) + "\n").encode())
    (root / PROGRESS_MARKER).unlink(missing_ok=True)


def _start_worker() -> None:
    cv2.setNumThreads(0)


def run_jobs(work: Callable[[Job], None], jobs: list[Job], workers: int | None) -> None:
    """Runs jobs in several processes with a progress bar.

    Args:
        work: writes the files of a job; must be picklable.
        jobs: the jobs.
        workers: number of processes; None = one per processor.
    """
    workers = workers or os.cpu_count() or 1
    bar = partial(tqdm, total=len(jobs), desc="toy world", unit="image", disable=not jobs)
    if workers <= 1 or len(jobs) < _PARALLEL_FROM:
        for job in bar(jobs):
            work(job)
        return
    for _ in bar(in_processes(work, jobs, workers, chunksize=4, start=_start_worker)):
        pass
