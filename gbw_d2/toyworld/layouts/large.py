"""The toy world at 256 x 512 pixels with more images, both domains in one folder, for a GPU."""

from __future__ import annotations

from pathlib import Path

from gbw_d2.toyworld.folder import Job, png_bytes
from gbw_d2.toyworld.layouts.base import LAYOUTS, Files, Layout
from gbw_d2.toyworld.render import ToySample
from gbw_d2.toyworld.settings import SPLITS, ToyWorldSettings
from gbw_d2.toyworld.writer import SUBFOLDERS, pictures, sample_files, write_panoptic

_SETTINGS = ToyWorldSettings(
    seed=8,
    image_size=(256, 512),
    num_source=2000,
    num_target_train=2000,
    num_target_val=200,
    num_source_val=200,
)


def _paths(job: Job) -> list[str]:
    return [path.as_posix() for path in sample_files(Path(), *job).values()]


def _encode(sample: ToySample, job: Job) -> Files:
    content = pictures(job[0], sample)
    files = sample_files(Path(), *job)
    return {path.as_posix(): png_bytes(content[role]) for role, path in files.items()}


def _complete(root: Path) -> None:
    for split in SPLITS["target"]:
        write_panoptic(root / SUBFOLDERS["target"] / "gtFine", split)


LAYOUTS.register("large")(
    Layout(
        "large",
        1,
        _SETTINGS,
        tuple((domain, split) for domain, splits in SPLITS.items() for split in splits),
        _encode,
        _paths,
        _complete,
    )
)
