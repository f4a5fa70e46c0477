"""The definition of a further layout of the toy world, and its writing to disk."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from gbw_d2.cityscapes_classes import CLASSES
from gbw_d2.data.spec import DatasetError
from gbw_d2.files.locking import exclusive
from gbw_d2.registry import Registry
from gbw_d2.toyworld.folder import MARKER, Job, claim, finish, png_bytes, run_jobs, write_file
from gbw_d2.toyworld.render import ToySample, render
from gbw_d2.toyworld.settings import ToyWorldSettings

# Cityscapes' label id -> colour, for palettes.
_COLORS = {c.cityscapes_id: c.color for c in CLASSES}

Files = dict[str, bytes]


@dataclass(frozen=True)
class Layout:
    """One further layout.

    Args:
        name: name of the dataset in the marker.
        version: to be raised whenever the same settings would give other bytes.
        settings: settings of the rendered world.
        splits: the renderer's (domain, split) pairs that it contains.
        encode: returns the files of one image, content by path below the root, from sample and job.
        paths: returns the paths of a job's files without rendering.
        complete: writes files that belong to no single image; called with the root after all
            images.
    """

    name: str
    version: int
    settings: ToyWorldSettings
    splits: tuple[tuple[str, str], ...]
    encode: Callable[[ToySample, Job], Files]
    paths: Callable[[Job], list[str]]
    complete: Callable[[Path], None] = lambda root: None

    def jobs(self) -> list[Job]:
        """Lists one job per image."""
        return [
            (domain, split, index)
            for domain, split in self.splits
            for index in range(self.settings.num_images(domain, split))
        ]

    def marker(self) -> dict[str, Any]:
        """Returns the content of the folder's marker."""
        return {"layout": self.name, "layout_version": self.version, **self.settings.as_json()}


LAYOUTS: Registry[Layout] = Registry("toy layout")


def write_layout(root: Path, layout: Layout, workers: int | None = None) -> None:
    """Writes the missing files of a toy dataset.

    Args:
        root: folder to write to: empty, absent, or the same dataset.
        layout: the layout.
        workers: number of processes; None = one per processor.

    Raises:
        DatasetError: the folder holds other files.
    """
    root = Path(root)
    with exclusive(root):
        finished, missing = claim(root, layout.marker()), _missing(root, layout)
        if finished and not missing:
            return
        for folder in {(root / path).parent for job in missing for path in layout.paths(job)}:
            folder.mkdir(parents=True, exist_ok=True)
        run_jobs(partial(_write_image, root, layout.name, layout.settings), missing, workers)
        layout.complete(root)
        finish(root, layout.marker())


def check_layout(root: Path, layout: Layout) -> None:
    """Raises :class:`DatasetError` if a toy dataset is missing or incomplete."""
    root, remedy = Path(root), f"run `python datasets/prepare_toy.py --layout {layout.name}`"
    if not (root / MARKER).is_file():
        raise DatasetError(
            f"{root} holds no finished toy dataset ({MARKER} is not there); {remedy}"
        )
    claim(root, layout.marker())
    missing = _missing(root, layout)
    if missing:
        raise DatasetError(f"{root}: {len(missing)} images lack files; {remedy}")


def _missing(root: Path, layout: Layout) -> list[Job]:
    jobs = layout.jobs()
    return [job for job in jobs if not all((root / path).is_file() for path in layout.paths(job))]


def _write_image(root: Path, name: str, settings: ToyWorldSettings, job: Job) -> None:
    # LAYOUTS is complete in worker processes too: importing this file imports the package first,
    # whose __init__ imports every layout.
    for path, content in LAYOUTS.get(name).encode(render(settings, *job), job).items():
        write_file(root / path, content)


def image_bytes(sample: ToySample) -> bytes:
    """Encodes a sample's image as PNG."""
    return png_bytes(cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR))


def jpeg_bytes(sample: ToySample) -> bytes:
    """Encodes a sample's image as JPEG."""
    image = cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not done:
        raise DatasetError("OpenCV could not encode a JPEG file")
    return data.tobytes()


def palette_png(indices: np.ndarray) -> bytes:
    """Encodes (H, W) uint8 label ids as PNG with Cityscapes' colours as palette."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    for label_id, color in _COLORS.items():
        palette[label_id] = color
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()
