"""Merging of detections and a semantic map to a panoptic map, by Detectron2 and by ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.label_spaces import CITYSCAPES_19
from gbw_d2.modeling.merging import RULES, Detections, MergingSettings, merge_detections

from detectron2.layers import paste_masks_in_image
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import Instances

SIZE = (1024, 2048)
DETECTIONS = 100

Candidate = Callable[[], None]
# benchmark.report: candidates, repetitions, device, with memory or without -> rows of a table.
Report = Callable[[dict[str, Candidate], int, torch.device, bool], dict[str, dict[str, float]]]


def run_merging(
    report: Report, repetitions: int, device: torch.device
) -> dict[str, dict[str, dict[str, float]]]:
    """Benchmarks merging, relative to Detectron2's function on masks that are already pasted."""
    title = f"{DETECTIONS} detections at {SIZE[0]}x{SIZE[1]}"
    return {title: report(merging_candidates(device), repetitions, device, True)}


def street_detections(count: int, size: tuple[int, int], device: torch.device) -> Detections:
    """Draws detections as in a street: many small boxes and few large ones, with round masks."""
    draw = torch.Generator().manual_seed(0)
    rows, columns = size
    # Square roots of areas from 1/64 to 1/4 of the columns, uniform in the logarithm.
    side = columns / 64 * 16 ** torch.rand(count, generator=draw)
    aspect = 3 ** (torch.rand(count, generator=draw) * 2 - 1)
    extent = torch.stack([side * aspect.sqrt(), side / aspect.sqrt()], 1)
    limit = torch.tensor([columns, rows], dtype=torch.float32)
    corner = torch.rand(count, 2, generator=draw) * (limit - extent).clamp(min=0)
    boxes = torch.cat([corner, torch.minimum(corner + extent, limit)], 1)
    axis = torch.linspace(-1, 1, 28)
    distance = (axis[:, None] ** 2 + axis[None, :] ** 2).sqrt()
    noise = torch.rand(count, 28, 28, generator=draw) * 0.2
    return Detections(
        boxes.to(device),
        (torch.rand(count, generator=draw) * 0.5 + 0.5).to(device),
        torch.randint(0, len(CITYSCAPES_19.thing_ids), (count,), generator=draw).to(device),
        (1.3 - distance + noise).clamp(0, 1).to(device),
    )


def merging_candidates(
    device: torch.device, size: tuple[int, int] = SIZE, count: int = DETECTIONS
) -> dict[str, Candidate]:
    """Makes Detectron2's merging, without and with its pasting, and ours by each rule.

    Detectron2's function takes semantic classes. Ours takes logits, because it also computes the
    scores of stuff.
    """
    found = street_detections(count, size, device)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, CITYSCAPES_19.num_classes, 16, 32, generator=generator).to(device)
    logits = F.interpolate(coarse, size=size, mode="bilinear")[0].contiguous()
    things = CITYSCAPES_19.thing_ids
    # In Detectron2's function label 0 means "any thing".
    shifted = torch.arange(1, CITYSCAPES_19.num_classes + 1, device=device)
    shifted[list(things)] = 0
    instances = Instances(size)
    instances.scores, instances.pred_classes = found.scores, found.classes
    instances.pred_masks = paste_masks_in_image(found.masks, found.boxes, size)

    def combine(pasted: Instances) -> Any:
        classes = shifted[logits.argmax(dim=0)]
        return combine_semantic_and_instance_outputs(pasted, classes, 0.5, 4096, 0.5)

    def paste_and_combine() -> None:
        each = Instances(size)
        each.scores, each.pred_classes = found.scores, found.classes
        each.pred_masks = paste_masks_in_image(found.masks, found.boxes, size)
        combine(each)

    def ours(rule: str) -> tuple[Tensor, list[dict[str, Any]]]:
        return merge_detections(logits, found, things, MergingSettings(rule))

    if not torch.equal(combine(instances)[0], ours("score_order")[0]):
        raise AssertionError("the maps of Detectron2 and of score_order differ")
    return {
        "pasted already": lambda: _drop(combine(instances)),
        "with pasting": paste_and_combine,
        **{rule: (lambda rule=rule: _drop(ours(rule))) for rule in RULES},
    }


def _drop(_: object) -> None:
    """Discards the result of a candidate."""
