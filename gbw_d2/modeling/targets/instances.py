"""The targets of networks with RoI heads: a map of numbered instances, and their classes.

Boxes and masks are computed from the map on the device, so that loader processes send one number
per pixel instead of masks, and the instances of two images can be mixed pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.ops.owners import at_owners
from gbw_d2.ops.segments import segment_attributes

# Label entries of a sample.
# (H, W) int32: 1..S on the pixels of instances, 0 where there is none, IGNORED where nobody knows.
INSTANCE_NUMBERS = "instance_numbers"
INSTANCE_CLASSES = "instance_classes"  # (S,) int64, place of each instance's class in `thing_ids`
ENTRIES = (INSTANCE_NUMBERS, INSTANCE_CLASSES)

IGNORED = -1
# Class of an entry without an instance.
NO_INSTANCE = -1


def numbered_instances(
    segment_map: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    thing_ids: Sequence[int],
    min_area: int = 0,
) -> dict[str, np.ndarray]:
    """Numbers the instances in a crop.

    Crowds, void, and instances with fewer than ``min_area`` pixels in the crop become ignore
    regions, neither object nor background. Detectron2 drops crowds and so treats them as
    background.

    Args:
        segment_map: (H, W) segment ids, 0 = void.
        segments_info: COCO dicts; ``category_id`` in the same ids as ``thing_ids``, 255 = a class
            that the network does not have: void.
        thing_ids: class ids of the things.
        min_area: minimum area of an instance in the crop, pixels.

    Returns:
        Arrays under the names above.
    """
    numbers, categories, is_crowd = segment_attributes(segment_map, segments_info)
    areas = np.bincount(numbers.ravel(), minlength=len(categories))
    things = np.isin(categories, np.asarray(thing_ids))
    wanted = things & ~is_crowd & (areas >= max(1, min_area))
    renumbered = np.zeros(len(categories), np.int32)
    renumbered[(things & ~wanted) | (categories == IGNORE_LABEL)] = IGNORED
    renumbered[wanted] = np.arange(1, wanted.sum() + 1)
    place = {class_id: place for place, class_id in enumerate(thing_ids)}
    classes = [place[category] for category in categories[wanted].tolist()]
    return {
        INSTANCE_NUMBERS: renumbered[numbers],
        INSTANCE_CLASSES: np.array(classes, np.int64),
    }


@dataclass(frozen=True)
class InstanceTargetGenerator:
    """Makes the label entries of RoI heads in a loader process.

    Attributes:
        thing_ids: class ids of the things.
        min_area: minimum area of an instance, pixels; smaller ones are ignored.
    """

    thing_ids: tuple[int, ...]
    min_area: int = 0

    def __call__(
        self,
        class_map: np.ndarray,
        segment_map: np.ndarray | None,
        segments_info: Sequence[Mapping[str, Any]],
    ) -> dict[str, Tensor]:
        """See :class:`gbw_d2.modeling.protocol.TargetGenerator`."""
        if segment_map is None:
            return {}
        made = numbered_instances(segment_map, segments_info, self.thing_ids, self.min_area)
        return {name: torch.from_numpy(array) for name, array in made.items()}


@dataclass(frozen=True)
class InstanceTargets:
    """The instances of a batch of images.

    Attributes:
        numbers: (N, H, W) int32, number of the instance at each pixel, 0 = none, -1 = ignored.
        classes: (N, S) int64, index of each instance's class among the things; -1 = no instance.
            Instance 1 is in column 0. Instances may have no visible pixel.
    """

    numbers: Tensor
    classes: Tensor

    def boxes(self) -> tuple[Tensor, Tensor]:
        """Returns boxes (N, S, 4) as x0, y0, x1, y1, ends exclusive, and (N, S), which exist."""
        count = self.classes.shape[1]
        images, height, width = self.numbers.shape
        device = self.numbers.device
        # Rows and columns that contain each instance. Writing True does not depend on the order of
        # pixels.
        rows = torch.zeros(images, count + 1, height, dtype=torch.bool, device=device)
        columns = torch.zeros(images, count + 1, width, dtype=torch.bool, device=device)
        image = torch.arange(images, device=device).view(-1, 1, 1)
        number = self.numbers.clamp(min=0).long()
        shown = torch.ones((), dtype=torch.bool, device=device)
        rows[image, number, torch.arange(height, device=device).view(1, -1, 1)] = shown
        columns[image, number, torch.arange(width, device=device).view(1, 1, -1)] = shown
        axes = (columns[:, 1:], rows[:, 1:])
        first = [axis.int().argmax(dim=2) for axis in axes]
        last = [axis.shape[2] - axis.flip(2).int().argmax(dim=2) for axis in axes]
        there = (self.classes != NO_INSTANCE) & axes[0].any(dim=2)
        boxes = torch.stack([*first, *last], dim=2).float()
        return torch.where(there.unsqueeze(2), boxes, torch.zeros_like(boxes)), there

    def mixed_onto(self, mask: Tensor, below: InstanceTargets) -> InstanceTargets:
        """Pastes these instances, where ``mask`` (N, H, W) is True, onto those ``below``."""
        shift = self.classes.shape[1]
        shifted = torch.where(below.numbers > 0, below.numbers + shift, below.numbers)
        return InstanceTargets(
            torch.where(mask, self.numbers, shifted), torch.cat([self.classes, below.classes], 1)
        )


def taught_instances(
    owners: Tensor, classes: Tensor, wanted: Tensor, thing_ids: Sequence[int]
) -> InstanceTargets:
    """Makes instances of segments; unwanted things and void become ignore regions.

    Args:
        owners: (N, H, W) int64, number of each pixel's segment, 0..S-1; 0 = void.
        classes: (N, S) int64 class ids, 255 = no segment.
        wanted: (N, S) bool, the things to use.
        thing_ids: class ids of the things.
    """
    place = torch.full((IGNORE_LABEL + 1,), NO_INSTANCE)
    place[list(thing_ids)] = torch.arange(len(thing_ids))
    places = place.to(owners.device, non_blocking=True)[classes]
    is_thing = places != NO_INSTANCE
    kept = is_thing & wanted
    number = torch.arange(classes.shape[1], device=owners.device).expand_as(classes)
    others = torch.where(is_thing | (classes == IGNORE_LABEL), IGNORED, 0)
    numbers = at_owners(torch.where(kept, number, others), owners)
    return InstanceTargets(numbers.int(), torch.where(kept, places, NO_INSTANCE)[:, 1:])


def stacked_classes(classes: Sequence[Tensor]) -> Tensor:
    """Stacks the classes (S_i,) of N images into (N, S), padded with -1."""
    return torch.nn.utils.rnn.pad_sequence(
        list(classes), batch_first=True, padding_value=NO_INSTANCE
    )
