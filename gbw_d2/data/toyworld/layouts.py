"""The toy world in further official layouts, each in a folder of its own and made only when used.

They share the renderer with the toy SYNTHIA and Cityscapes and do not touch their files.
"""

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

from gbw_d2.data.catalog import DatasetError
from gbw_d2.data.label_spaces import CLASSES, IGNORE_LABEL
from gbw_d2.data.toyworld.folder import (
    MARKER,
    Job,
    claim,
    finish,
    png_bytes,
    run_jobs,
    write_file,
)
from gbw_d2.data.toyworld.render import ToySample, render
from gbw_d2.data.toyworld.settings import DomainGap, ToyWorldSettings
from gbw_d2.registry import Registry

# Cityscapes' label id -> colour, for palettes.
_COLORS = {c.cityscapes_id: c.color for c in CLASSES}

Files = dict[str, bytes]


@dataclass(frozen=True)
class Layout:
    """One further layout.

    Args:
        name: of the dataset, in the marker.
        version: raised whenever the same settings would give other bytes.
        settings: what is rendered.
        splits: the (domain, split) pairs of the renderer that it holds.
        encode: sample, job -> path below the root -> content, the files of one image.
        paths: job -> those paths, without rendering.
        complete: path -> content of the files that belong to no single image; gets the root when
            all images are there.
    """

    name: str
    version: int
    settings: ToyWorldSettings
    splits: tuple[tuple[str, str], ...]
    encode: Callable[[ToySample, Job], Files]
    paths: Callable[[Job], list[str]]
    complete: Callable[[Path], Files] = lambda root: {}

    def jobs(self) -> list[Job]:
        """Lists one job per image."""
        return [
            (domain, split, index)
            for domain, split in self.splits
            for index in range(self.settings.num_images(domain, split))
        ]

    def marker(self) -> dict[str, Any]:
        """Returns what the folder's marker says."""
        return {"layout": self.name, "layout_version": self.version, **self.settings.as_json()}


LAYOUTS: Registry[Layout] = Registry("toy layout")


def write_layout(root: Path, layout: Layout, workers: int | None = None) -> None:
    """Writes a toy dataset, or what is missing of it; a finished one is left alone.

    Args:
        root: folder to write to: empty, absent, or the same dataset.
        layout: what is written.
        workers: number of processes; None = one per processor.

    Raises:
        DatasetError: the folder holds something else.
    """
    root = Path(root)
    if claim(root, layout.marker()):
        return
    missing = _missing(root, layout)
    for folder in {(root / path).parent for job in missing for path in layout.paths(job)}:
        folder.mkdir(parents=True, exist_ok=True)
    run_jobs(partial(_write_image, root, layout.name, layout.settings), missing, workers)
    for path, content in layout.complete(root).items():
        write_file(root / path, content)
    finish(root, layout.marker())


def check_layout(root: Path, layout: Layout) -> None:
    """Raises :class:`DatasetError` where a toy dataset is not there or not whole."""
    root = Path(root)
    if not (root / MARKER).is_file():
        raise DatasetError(f"{root} holds no finished toy dataset ({MARKER} is not there)")
    claim(root, layout.marker())
    missing = _missing(root, layout)
    if missing:
        raise DatasetError(f"{root}: {len(missing)} images lack files; delete the folder")


def _missing(root: Path, layout: Layout) -> list[Job]:
    jobs = layout.jobs()
    return [job for job in jobs if not all((root / path).is_file() for path in layout.paths(job))]


def _write_image(root: Path, name: str, settings: ToyWorldSettings, job: Job) -> None:
    for path, content in LAYOUTS.get(name).encode(render(settings, *job), job).items():
        write_file(root / path, content)


def _image_bytes(sample: ToySample) -> bytes:
    return png_bytes(cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR))


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


# The source's look with terrain, trucks and trains, and scenes of its own.
_GTA5_SETTINGS = ToyWorldSettings(
    seed=1, num_target_train=300, gap=DomainGap(0.0, 0.0, 0.0, 1.0, 0.0)
)
# As in GTA5, where some labels have other sizes than their images.
GTA5_ODD_INDEX = 2


def _gta5_paths(job: Job) -> list[str]:
    return [f"{folder}/{job[2] + 1:05d}.png" for folder in ("labels", "images")]


def _encode_gta5(sample: ToySample, job: Job) -> Files:
    label = sample.raw_map
    if job[2] == GTA5_ODD_INDEX:
        rows, columns = label.shape
        size = (columns, rows + max(rows // 64, 1))
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return dict(zip(_gta5_paths(job), (palette_png(label), _image_bytes(sample)), strict=True))


LAYOUTS.register("gta5")(
    Layout("gta5", 1, _GTA5_SETTINGS, (("target", "train"),), _encode_gta5, _gta5_paths)
)


_OWN_SETTINGS = ToyWorldSettings(
    seed=2, num_source=60, num_target_train=60, num_target_val=20, gap=DomainGap()
)
_OWN_FOLDERS = {("source", "train"): "synthetic", ("target", "train"): "real_unlabelled"}
_OWN_LABELLED = (("source", "train"), ("target", "val"))
OWN_DESCRIPTION = """\
classes:
  road: 1
  sidewalk: 2
  building: 3
  wall: 4
  fence: 5
  pole: 6
  traffic light: 7
  traffic sign: 8
  vegetation: 9
  terrain: 10
  sky: 11
  person: 12
  rider: 13
  car: 14
  truck: 15
  bus: 16
  train: 17
  motorcycle: 18
  bicycle: 19
  void: [0, 20]
splits:
  source:
    images: synthetic/images
    labels: synthetic/labels
    instances: synthetic/instances
    label_suffix: _label.png
  target:
    images: real_unlabelled/images
  val:
    images: real_labelled/images
    labels: real_labelled/labels
    instances: real_labelled/instances
    label_suffix: _label.png
"""


def _own_paths(job: Job) -> list[str]:
    folder, name = _OWN_FOLDERS.get(job[:2], "real_labelled"), f"frame_{job[2]:04d}"
    labels = [f"labels/{name}_label.png", f"instances/{name}.png"]
    parts = [*(labels if job[:2] in _OWN_LABELLED else []), f"images/{name}.jpg"]
    return [f"{folder}/{part}" for part in parts]


def _encode_own(sample: ToySample, job: Job) -> Files:
    label = np.where(sample.class_map == IGNORE_LABEL, 0, sample.class_map + 1).astype(np.uint8)
    image = cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR)
    contents = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()]
    if job[:2] in _OWN_LABELLED:
        instances = sample.instance_map.astype(np.uint16)
        contents = [png_bytes(label), png_bytes(instances), *contents]
    return dict(zip(_own_paths(job), contents, strict=True))


LAYOUTS.register("own")(
    Layout(
        "own",
        1,
        _OWN_SETTINGS,
        (*_OWN_FOLDERS, ("target", "val")),
        _encode_own,
        _own_paths,
        lambda root: {"data.yaml": OWN_DESCRIPTION.encode()},
    )
)
