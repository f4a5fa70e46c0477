"""The settings of a toy world: seed, sizes, and the knobs of the domain gap."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

# The version, to be raised whenever the same settings would give other bytes.
FORMAT_VERSION = 3

DOMAINS: tuple[str, ...] = ("source", "target")
SPLITS: dict[str, tuple[str, ...]] = {"source": ("train", "val"), "target": ("train", "val")}

# Special images of the source and of the target's training split.
EMPTY_INDEX = 3  # no thing at all
CROWDED_INDEX = 7  # more than 255 instances at 128 x 256 and above


@dataclass(frozen=True)
class DomainGap:
    """The size of the domain gap, per knob: 0 = the source's look, 1 = the full gap."""

    palette_and_texture: float = 1.0
    lighting_and_weather: float = 1.0
    blur_and_noise: float = 1.0
    class_prior: float = 1.0
    layout_and_camera: float = 1.0

    def __post_init__(self) -> None:
        for knob in fields(self):
            value = getattr(self, knob.name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"toy world: gap.{knob.name} is {value}; give a number in 0..1")


@dataclass(frozen=True)
class ToyWorldSettings:
    """The settings of a toy world; equal settings give equal files.

    Args:
        seed: seed of every random draw, >= 0.
        image_size: (rows, columns) in pixels.
        num_source: number of source images.
        num_target_train: number of target training images.
        num_target_val: number of target validation images.
        gap: the knobs of the domain gap.
        num_source_val: number of source validation images.
        target_factors: (name, factor >= 0) pairs; the target's number of that name in
            ``looks.py`` (class prior, layout, light, sensor) is multiplied after the knobs.
    """

    seed: int = 0
    image_size: tuple[int, int] = (128, 256)
    num_source: int = 600
    num_target_train: int = 600
    num_target_val: int = 100
    gap: DomainGap = field(default_factory=DomainGap)
    num_source_val: int = 0
    target_factors: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"toy world: seed is {self.seed}; give an integer >= 0")
        if min(self.image_size) < 32:
            raise ValueError(
                f"toy world: image_size is {self.image_size}; at least 32 x 32 is needed"
            )
        if min(self.num_source, self.num_target_train, self.num_target_val) < 1:
            raise ValueError("toy world: every split needs at least one image")
        if self.num_source_val < 0:
            raise ValueError(
                f"toy world: num_source_val is {self.num_source_val}; give an integer >= 0"
            )
        for name, factor in self.target_factors:
            if not 0.0 <= factor < math.inf:
                raise ValueError(f"toy world: the factor of '{name}' is {factor}; give one >= 0")

    def num_images(self, domain: str, split: str) -> int:
        """Returns the number of images of a split."""
        counts = {
            ("source", "train"): self.num_source,
            ("source", "val"): self.num_source_val,
            ("target", "train"): self.num_target_train,
            ("target", "val"): self.num_target_val,
        }
        return counts[domain, split]

    def as_json(self) -> dict[str, Any]:
        """Returns the settings and the format version as plain JSON values, one level deep.

        Settings that are empty by default are only included if set, so that worlds of earlier
        versions keep their markers.
        """
        values = asdict(self)
        gap = {f"gap.{name}": value for name, value in values.pop("gap").items()}
        factors = {f"factor.{name}": factor for name, factor in values.pop("target_factors")}
        values["image_size"] = list(self.image_size)
        if not self.num_source_val:
            del values["num_source_val"]
        return {"format_version": FORMAT_VERSION, **values, **gap, **factors}
