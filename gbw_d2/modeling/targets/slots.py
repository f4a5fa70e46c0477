"""Segments for mask classifiers: a map of slots, and the class in each slot.

Slot 0 is void, slot c + 1 the one segment of class c where that has no instances, and slots from
K + 1 on are instances. Stuff of two images that are pasted together is one segment by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.ops.owners import owner_sums
from gbw_d2.ops.segments import segment_attributes

# Label entries of a sample.
SLOTS = "slots"  # (H, W) int32
SLOT_CLASSES = "slot_classes"  # (1 + K + things,) int64 class ids, 255 = none


def stuff_slots(num_classes: int) -> Tensor:
    """Returns (1 + K,) int64, the classes of the slots that every image has."""
    return torch.tensor([IGNORE_LABEL, *range(num_classes)])


@dataclass(frozen=True)
class SlotTargetGenerator:
    """Makes the label entries of a mask classifier in a loader process.

    Crowds and what is not a class are void: they are no segment to learn.

    Attributes:
        num_classes: K.
        thing_ids: class ids of the things.
    """

    num_classes: int
    thing_ids: tuple[int, ...]

    def __call__(
        self,
        class_map: np.ndarray,
        segment_map: np.ndarray | None,
        segments_info: Sequence[Mapping[str, Any]],
    ) -> dict[str, Tensor]:
        """See :class:`gbw_d2.modeling.protocol.TargetGenerator`."""
        if segment_map is None:
            return {}
        numbers, categories, crowds = segment_attributes(segment_map, segments_info)
        known = (categories != IGNORE_LABEL) & ~crowds
        visible = np.bincount(numbers.ravel(), minlength=len(categories)) > 0
        things = known & visible & np.isin(categories, self.thing_ids)
        slots = np.where(known & ~things, categories + 1, 0)
        slots[things] = self.num_classes + 1 + np.arange(things.sum())
        classes = torch.cat([stuff_slots(self.num_classes), torch.from_numpy(categories[things])])
        return {
            SLOTS: torch.from_numpy(slots[numbers].astype(np.int32)),
            SLOT_CLASSES: classes,
        }


@dataclass(frozen=True)
class SlotTargets:
    """Segments of a batch; all on one device.

    Attributes:
        slots: (N, H, W) int64.
        classes: (N, S) int64 class ids of the slots, 255 = none.
        reliable: (N, H, W) bool, pixels where a teacher is sure of its segment; None = everywhere.
            A segment's mask loss weighs as its share of them (MC-PanDA's mask-wide scaling).
        usable: (N, H, W) bool, pixels that points of the mask loss are drawn from; None =
            everywhere.
        no_object: (N,) float32, 0..1, how much "no object" counts: 1 for labels; None = 1.
        least_area: smaller segments are none, pixels.
    """

    slots: Tensor
    classes: Tensor
    reliable: Tensor | None = None
    usable: Tensor | None = None
    no_object: Tensor | None = None
    least_area: int = 1

    def areas(self, where: Tensor | None = None) -> Tensor:
        """Returns (N, S) float32 pixels of each slot, or those where a map (N, H, W) is True."""
        return owner_sums(self.slots, self.classes.shape[1], where)

    def present(self) -> Tensor:
        """Returns (N, S) bool, the slots that are segments of ``least_area`` or more."""
        return (self.areas() >= self.least_area) & (self.classes != IGNORE_LABEL)


def slots_of_classes(class_map: Tensor, num_classes: int) -> SlotTargets:
    """Makes one segment of each class of a map (N, H, W) int64, 255 = ignore."""
    slots = torch.where(class_map == IGNORE_LABEL, 0, class_map + 1)
    classes = stuff_slots(num_classes).to(class_map.device, non_blocking=True)
    return SlotTargets(slots, classes.expand(len(class_map), -1))


def mixed_slots(mask: Tensor, source: SlotTargets, target: SlotTargets, stuff: int) -> SlotTargets:
    """Pastes the segments of one batch onto those of another.

    Args:
        mask: (N, H, W) bool, True where the source's pixel is pasted.
        source: segments that are pasted.
        target: segments beneath.
        stuff: 1 + K, slots that both share.
    """
    extra = source.classes.shape[1] - stuff
    below = torch.where(target.slots >= stuff, target.slots + extra, target.slots)
    return SlotTargets(
        torch.where(mask, source.slots, below),
        torch.cat([source.classes, target.classes[:, stuff:]], dim=1),
        _pasted(mask, source.reliable, target.reliable),
        _pasted(mask, source.usable, target.usable),
        target.no_object,
        max(source.least_area, target.least_area),
    )


def _pasted(mask: Tensor, source: Tensor | None, target: Tensor | None) -> Tensor | None:
    if source is None and target is None:
        return None
    above = torch.ones_like(mask) if source is None else source
    below = torch.ones_like(mask) if target is None else target
    return torch.where(mask, above, below)
