"""The toy Cross-City: four cities, images as JPEG and PNG, labels for test images only."""

from __future__ import annotations

from gbw_d2.toyworld.folder import Job, png_bytes
from gbw_d2.toyworld.layouts.base import LAYOUTS, Files, Layout, image_bytes, jpeg_bytes
from gbw_d2.toyworld.render import ToySample
from gbw_d2.toyworld.settings import ToyWorldSettings

CITIES = ("Rome", "Rio", "Tokyo", "Taipei")
_FOLDERS = {"train": "Train", "val": "Test"}


def _is_jpeg(job: Job) -> bool:
    # Each city has both formats.
    return job[2] // len(CITIES) % 2 == 0


def _paths(job: Job) -> list[str]:
    _, split, index = job
    city, folder = CITIES[index % len(CITIES)], _FOLDERS[split]
    name = f"pano_{index:05d}"
    image = f"{city}/Images/{folder}/{name}.{'jpg' if _is_jpeg(job) else 'png'}"
    labels = [f"{city}/Labels/{folder}/{name}_eval.png"] if split == "val" else []
    return [*labels, image]


def _encode(sample: ToySample, job: Job) -> Files:
    contents = [jpeg_bytes(sample) if _is_jpeg(job) else image_bytes(sample)]
    if job[1] == "val":
        contents = [png_bytes(sample.raw_map), *contents]
    return dict(zip(_paths(job), contents, strict=True))


LAYOUTS.register("crosscity")(
    Layout(
        "crosscity",
        1,
        ToyWorldSettings(seed=3, num_target_train=120, num_target_val=40),
        (("target", "train"), ("target", "val")),
        _encode,
        _paths,
    )
)
