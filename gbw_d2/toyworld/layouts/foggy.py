"""The toy Foggy Cityscapes: the scenes of the toy Cityscapes in fog, with its labels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from gbw_d2.toyworld.folder import Job, png_bytes
from gbw_d2.toyworld.layouts.base import LAYOUTS, Files, Layout
from gbw_d2.toyworld.render import ToySample
from gbw_d2.toyworld.settings import ToyWorldSettings
from gbw_d2.toyworld.writer import (
    SUBFOLDERS,
    cityscapes_labels,
    sample_files,
    write_panoptic,
)

BETAS = ("0.005", "0.01", "0.02")
# Brightness of the fog, grey level.
_FOG = 215.0
_SPLITS = (("target", "train"), ("target", "val"))


def add_fog(image: np.ndarray, depth: np.ndarray, beta: float) -> np.ndarray:
    """Adds homogeneous fog, as Foggy Cityscapes does (Sakaridis et al., IJCV 2018, equation 1).

    Args:
        image: (H, W, 3) uint8.
        depth: (H, W) metres.
        beta: attenuation per metre.
    """
    seen = np.exp(-beta * depth)[:, :, None]
    return np.round(seen * image + (1.0 - seen) * _FOG).astype(np.uint8)


def _labels(job: Job) -> dict[str, str]:
    files = sample_files(Path(), *job)
    base = SUBFOLDERS["target"]
    return {role: p.relative_to(base).as_posix() for role, p in files.items() if role != "image"}


def _foggy(job: Job, beta: str) -> str:
    image = sample_files(Path(), *job)["image"].relative_to(SUBFOLDERS["target"]).as_posix()
    image = image.replace("leftImg8bit/", "leftImg8bit_foggy/")
    return f"{image.removesuffix('.png')}_foggy_beta_{beta}.png"


def _paths(job: Job) -> list[str]:
    return [*_labels(job).values(), *(_foggy(job, beta) for beta in BETAS)]


def _encode(sample: ToySample, job: Job) -> Files:
    pictures = cityscapes_labels(sample)
    files = {path: png_bytes(pictures[role]) for role, path in _labels(job).items()}
    image = cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR)
    for beta in BETAS:
        files[_foggy(job, beta)] = png_bytes(add_fog(image, sample.depth, float(beta)))
    return files


def _complete(root: Path) -> None:
    for _, split in _SPLITS:
        write_panoptic(root / "gtFine", split)


LAYOUTS.register("foggy_cityscapes")(
    Layout(
        "foggy_cityscapes",
        1,
        ToyWorldSettings(num_target_train=100, num_target_val=30),
        _SPLITS,
        _encode,
        _paths,
        _complete,
    )
)
