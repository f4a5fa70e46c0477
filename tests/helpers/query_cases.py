"""Random segments and predictions of a mask classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from gbw_d2.modeling.mask2former.decoder import QueryPredictions
from gbw_d2.modeling.targets.slots import SlotTargets, stuff_slots


def random_segments(
    images: int, size: tuple[int, int], things: int, num_classes: int
) -> SlotTargets:
    """Draws bands of stuff with rectangles of things on them, of random classes."""
    slots = torch.zeros(images, *size, dtype=torch.long)
    classes = torch.randint(num_classes, (images, things))
    for image in range(images):
        slots[image] = (
            1
            + torch.randint(num_classes, (4,)).repeat_interleave(-(-size[0] // 4))[: size[0], None]
        )
        for thing in range(things):
            top, left = (int(torch.randint(side - 3, ())) for side in size)
            slots[image, top : top + 5, left : left + 6] = 1 + num_classes + thing
    table = torch.cat([stuff_slots(num_classes).expand(images, -1), classes], dim=1)
    return SlotTargets(slots, table)


def masks_of(targets: SlotTargets) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the masks (S, H, W) and classes (S,) of the segments of each image."""
    masks, classes = [], []
    for slots, table, present in zip(
        targets.slots, targets.classes, targets.present(), strict=True
    ):
        numbers = present.nonzero()[:, 0]
        masks.append((slots[None] == numbers[:, None, None]).float())
        classes.append(table[numbers])
    return masks, classes


def random_predictions(
    layers: int, images: int, queries: int, num_classes: int, size: tuple[int, int]
) -> QueryPredictions:
    embeddings = torch.randn(layers, images, queries, 8, requires_grad=True)
    classes = torch.randn(layers, images, queries, num_classes + 1, requires_grad=True)
    masks = tuple((3 * torch.randn(images, queries, *size)).requires_grad_() for _ in range(layers))
    return QueryPredictions(embeddings, classes, masks)
