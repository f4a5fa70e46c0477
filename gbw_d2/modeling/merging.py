"""Merges semantic logits and detections into a panoptic map, by one of two rules.

* ``score_order`` (Kirillov et al., Panoptic FPN, CVPR 2019): detections are painted in the order of
  their scores; one that is mostly hidden by those before it is dropped. A detection's class wins.
* ``edaps`` (Saha et al., EDAPS, ICCV 2023): detections are painted class by class, the later over
  the earlier; a detection gets the semantic class of most of its pixels.

Masks are pasted one by one into the region of their box, never as a stack of whole images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gbw_d2.errors import UserError
from gbw_d2.modeling.postprocessing import class_probabilities, segment_table
from gbw_d2.modeling.rois.masks import pasted_mask, pasted_region

# A pixel belongs to a mask from this probability on, as in Detectron2.
MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class Detections:
    """The detections of RoI heads in one image.

    Attributes:
        boxes: (D, 4) x0, y0, x1, y1 in pixels.
        scores: (D,) 0..1.
        classes: (D,) int64, index of the class among the things.
        masks: (D, m, m) probabilities inside the box.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: Tensor) -> Detections:
        return Detections(self.boxes[rows], self.scores[rows], self.classes[rows], self.masks[rows])


@dataclass(frozen=True)
class MergingSettings:
    """Settings of the merging of detections and semantic segmentation.

    Args:
        rule: a name in ``RULES``.
        min_score: detections with a lower score are dropped, 0..1.
        most_hidden: ``score_order``: a detection is dropped if more than this share of it is
            already covered, 0..1.
        stuff_area: smaller stuff regions become void, pixels.

    Raises:
        UserError: an unknown rule.
    """

    rule: str = "score_order"
    min_score: float = 0.5
    most_hidden: float = 0.5
    stuff_area: int = 4096

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UserError(
                f"MODEL.PANOPTIC_FPN.COMBINE.RULE is '{self.rule}'; expected one of "
                f"{', '.join(RULES)}"
            )


@torch.no_grad()
def paint_by_score(
    found: Detections, size: tuple[int, int], most_hidden: float
) -> tuple[Tensor, Tensor]:
    """Paints detections by descending score onto free pixels.

    A detection is dropped if it has no pixel, or if more than ``most_hidden`` of its pixels are
    already covered. The host waits once, for the boxes.

    Args:
        found: detections of one image.
        size: (rows, columns) of the map.
        most_hidden: maximum covered share, 0..1.

    Returns:
        (H, W) int32, index of the detection + 1 at each pixel, 0 = none; (D,) bool, whether it is
        kept.
    """
    canvas = torch.zeros(size, dtype=torch.int32, device=found.boxes.device)
    kept = torch.zeros(len(found), dtype=torch.bool, device=canvas.device)
    order = torch.argsort(-found.scores)
    for row, box in zip(order.tolist(), found.boxes[order].tolist(), strict=True):
        place = pasted_region(box, size)
        view = canvas[place]
        if not view.numel():
            continue
        mask = pasted_mask(found.masks[row], box, place, MASK_THRESHOLD)
        free = mask & (view == 0)
        area = mask.sum()
        hidden = area - free.sum()
        kept[row] = (area > 0) & ~(hidden.double() / area.double() > most_hidden)
        view.masked_fill_(free & kept[row], row + 1)
    return canvas, kept


@torch.no_grad()
def paint_over(found: Detections, size: tuple[int, int]) -> Tensor:
    """Paints detections class by class, by descending score, over earlier ones.

    Returns:
        (H, W) int32, index of the detection + 1 at each pixel, 0 = none.
    """
    canvas = torch.zeros(size, dtype=torch.int32, device=found.boxes.device)
    order = torch.argsort(-found.scores, stable=True)
    order = order[torch.argsort(found.classes[order], stable=True)]
    for row, box in zip(order.tolist(), found.boxes[order].tolist(), strict=True):
        place = pasted_region(box, size)
        if canvas[place].numel():
            mask = pasted_mask(found.masks[row], box, place, MASK_THRESHOLD)
            canvas[place].masked_fill_(mask, row + 1)
    return canvas


# What a rule leaves: (M,) segment of a thing at each pixel, 0 = none; their classes (T,) and
# scores (T,); and (M,) bool, where stuff may be.
_Things = tuple[Tensor, Tensor, Tensor, Tensor]


def _score_order(
    found: Detections, labels: Tensor, thing_ids: Tensor, settings: MergingSettings
) -> _Things:
    canvas, kept = paint_by_score(found, tuple(labels.shape), settings.most_hidden)
    # The detection with the highest score is segment 1.
    order = torch.argsort(-found.scores)
    order = order[kept[order]]
    number = torch.zeros(len(found) + 1, dtype=torch.int64, device=labels.device)
    number[order + 1] = torch.arange(1, len(order) + 1, device=labels.device)
    segments = number[canvas.long()].flatten()
    return segments, thing_ids[found.classes[order]], found.scores[order], segments == 0


def _edaps(
    found: Detections, labels: Tensor, thing_ids: Tensor, settings: MergingSettings
) -> _Things:
    canvas = paint_over(found, tuple(labels.shape)).long().flatten()
    flat, things = labels.flatten(), len(thing_ids)
    place = torch.full((int(labels.max()) + 1,), -1, device=labels.device)
    seen = thing_ids[thing_ids < len(place)]
    place[seen] = torch.arange(len(seen), device=labels.device)
    thing = place[flat]
    used = (canvas > 0) & (thing >= 0)
    votes = torch.bincount(
        ((canvas - 1) * things + thing)[used], minlength=len(found) * things
    ).view(len(found), things)
    kept = votes.sum(1) > 0
    number = torch.cat([kept.new_zeros(1), kept]).cumsum(0)
    segments = torch.where(used, number[canvas], 0)
    classes = thing_ids[votes.argmax(1)[kept]] if len(found) else thing_ids[:0]
    return segments, classes, found.scores[kept], canvas == 0


RULES: Mapping[str, Callable[[Detections, Tensor, Tensor, MergingSettings], _Things]] = {
    "score_order": _score_order,
    "edaps": _edaps,
}


@torch.no_grad()
def merge_detections(
    sem_logits: Tensor,
    found: Detections,
    thing_ids: Sequence[int],
    settings: MergingSettings,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Merges detections with semantic logits.

    Pixels whose semantic class is a thing but which are in no detection become void; under
    ``edaps``, so do stuff pixels under a mask.

    Args:
        sem_logits: (K, H, W).
        found: detections of the same image, in its pixels.
        thing_ids: class ids of the things.
        settings: rule and thresholds.

    Returns:
        (H, W) int32 segment ids, 0 = void and 1..S, things first; and S dictionaries with ``id``,
        ``category_id`` (class id), ``isthing``, ``area`` (pixels), ``score`` (0..1: the
        detection's, for stuff the mean probability of the class).
    """
    num_classes = sem_logits.shape[0]
    highest, labels = sem_logits.max(dim=0)
    is_thing = torch.zeros(num_classes, dtype=torch.bool, device=labels.device)
    ids = torch.tensor(list(thing_ids), device=labels.device)
    is_thing[ids] = True
    found = found[(found.scores >= settings.min_score).nonzero()[:, 0]]
    segments, classes, scores, free = RULES[settings.rule](found, labels, ids, settings)
    flat = labels.flatten()
    areas = torch.bincount(torch.where(free, flat, num_classes), minlength=num_classes + 1)[:-1]
    stuff = ((areas >= max(1, settings.stuff_area)) & ~is_thing).nonzero()[:, 0]
    number = torch.zeros(num_classes, dtype=torch.int64, device=labels.device)
    number[stuff] = torch.arange(len(stuff), device=labels.device) + len(classes) + 1
    segments = torch.where(free, number[flat], segments)
    probability = class_probabilities(sem_logits.flatten(1), highest.flatten(), flat)
    probability = torch.where(free, probability, 1.0)
    table = segment_table(
        segments,
        torch.cat([classes, stuff]),
        torch.cat([scores.to(probability), probability.new_ones(len(stuff))]),
        probability,
        is_thing,
    )
    return segments.view(labels.shape).to(torch.int32), table
