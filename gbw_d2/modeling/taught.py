"""Converts a teacher's panoptic maps to segments, for networks that classify pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.modeling.postprocessing import class_probabilities
from gbw_d2.modeling.protocol import TaughtSegments
from gbw_d2.ops.owners import at_owners, owner_sums

PanopticResult = tuple[Tensor, Sequence[Mapping[str, Any]]]


@torch.no_grad()
def segments_of_maps(
    logits: Tensor,
    results: Iterable[PanopticResult],
    by_score: bool,
    least_score: float | None = None,
) -> TaughtSegments:
    """Makes segments of panoptic maps, whose tables are already on the host.

    A pixel's confidence is the probability of its segment's class at the pixel.

    Args:
        logits: (N, K, H, W), logits of the semantic head.
        results: of each image, (H, W) int32 segment ids and Detectron2's table, ids 1..S in order.
        by_score: whether the confidence of a thing is its score, for things found by another head.
        least_score: things of a lower score get no class; None keeps all.
    """
    maps, tables = zip(*results, strict=True)
    owners = torch.stack(maps).long()
    count = 1 + max(len(table) for table in tables)
    classes = torch.full((len(tables), count), IGNORE_LABEL)
    # Below 0: none.
    scores = torch.full((len(tables), count), -1.0)
    for image, table in enumerate(tables):
        places = slice(1, 1 + len(table))
        classes[image, places] = torch.tensor(
            [IGNORE_LABEL if _is_unsure(s, least_score) else int(s["category_id"]) for s in table]
        )
        if by_score:
            found = [float(s["score"]) if s["isthing"] else -1.0 for s in table]
            scores[image, places] = torch.tensor(found)
    classes = classes.to(owners.device, non_blocking=True)
    highest, labels = logits.float().max(1)
    own = at_owners(classes, owners)
    known = torch.where(own == IGNORE_LABEL, 0, own)
    confidence, greatest = (
        torch.stack([_probabilities(*each) for each in zip(logits, highest, chosen, strict=True)])
        for chosen in (known, labels)
    )
    given = at_owners(scores.to(owners.device, non_blocking=True), owners)
    confidence = torch.where(given >= 0, given, confidence)
    confidence = torch.where(own == IGNORE_LABEL, 0.0, confidence)
    return TaughtSegments(owners, classes, confidence, torch.maximum(greatest, confidence))


def _is_unsure(segment: Mapping[str, Any], least_score: float | None) -> bool:
    return least_score is not None and segment["isthing"] and segment["score"] < least_score


def without_unsure(
    segments: TaughtSegments, is_thing: Tensor, least_score: float
) -> TaughtSegments:
    """Removes the class of things whose mean confidence is lower than a score."""
    owners, classes = segments.owners, segments.classes
    count = classes.shape[1]
    areas = owner_sums(owners, count).clamp(min=1)
    score = owner_sums(owners, count, segments.confidence) / areas
    things = is_thing[classes.clamp(max=len(is_thing) - 1)]
    return replace(
        segments, classes=torch.where(things & (score < least_score), IGNORE_LABEL, classes)
    )


def large_classes(segments: TaughtSegments, least_area: int) -> Tensor:
    """Returns the classes of segments, 255 for segments of fewer than ``least_area`` pixels."""
    areas = owner_sums(segments.owners, segments.classes.shape[1])
    return torch.where(areas >= least_area, segments.classes, IGNORE_LABEL)


def _probabilities(logits: Tensor, highest: Tensor, classes: Tensor) -> Tensor:
    flat = class_probabilities(logits.float().flatten(1), highest.flatten(), classes.flatten())
    return flat.view_as(highest)
