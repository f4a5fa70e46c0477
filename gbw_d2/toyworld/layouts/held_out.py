"""Two further sets in the toy world's layouts: a validation set and a second target.

The first contains new images of the toy source. The second serves to confirm choices that were made
on the first target: it has another look and other class frequencies, which are not between those of
the toy world's two domains.
"""

from __future__ import annotations

from pathlib import Path

from gbw_d2.toyworld.folder import Job, png_bytes
from gbw_d2.toyworld.layouts.base import LAYOUTS, Files, Layout
from gbw_d2.toyworld.render import ToySample
from gbw_d2.toyworld.settings import DomainGap, ToyWorldSettings
from gbw_d2.toyworld.writer import pictures, sample_files, write_panoptic

_TARGET_SPLITS = (("target", "train"), ("target", "val"))

# A hazy evening and a better camera, at a height between those of the two domains.
_EVENING = (
    ("exposure", 0.86),
    ("cast_red", 1.14),
    ("cast_blue", 0.80),
    ("fog_density", 3.0),
    ("rain", 0.0),
    ("chroma_noise", 0.5),
)
_PRIOR = (
    ("car", 0.45),
    ("bus", 2.5),
    ("truck", 1.5),
    ("train", 0.5),
    ("group", 0.5),
    ("bicycle", 2.5),
    ("motorcycle", 3.0),
    ("ridden_bicycle", 0.6),
    ("ridden_motorcycle", 0.6),
    ("pole", 1.3),
    ("light", 2.2),
    ("sign", 0.4),
    ("tree", 0.6),
    ("roadside_wall", 2.5),
    ("roadside_fence", 0.4),
)


def _files(job: Job) -> dict[str, str]:
    # The path of each role without the domain's folder, because here the root is that folder.
    files = sample_files(Path(), *job)
    return {role: Path(*path.parts[1:]).as_posix() for role, path in files.items()}


def _paths(job: Job) -> list[str]:
    return list(_files(job).values())


def _encode(sample: ToySample, job: Job) -> Files:
    content = pictures(job[0], sample)
    return {path: png_bytes(content[role]) for role, path in _files(job).items()}


def _complete_target(root: Path) -> None:
    for _, split in _TARGET_SPLITS:
        write_panoptic(root / "gtFine", split)


LAYOUTS.register("synthia_val")(
    Layout(
        "synthia_val",
        1,
        ToyWorldSettings(seed=6, num_source_val=100),
        (("source", "val"),),
        _encode,
        _paths,
    )
)
LAYOUTS.register("cityscapes2")(
    Layout(
        "cityscapes2",
        1,
        ToyWorldSettings(
            seed=7,
            gap=DomainGap(palette_and_texture=0.5, blur_and_noise=0.0, layout_and_camera=0.5),
            target_factors=_EVENING + _PRIOR,
        ),
        _TARGET_SPLITS,
        _encode,
        _paths,
        _complete_target,
    )
)
