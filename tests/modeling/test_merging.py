"""Detections and semantics merged: against Detectron2, by hand, and at the edges."""

from __future__ import annotations

import pytest
import torch

from gbw_d2.errors import UserError
from gbw_d2.modeling.merging import Detections, MergingSettings, merge_detections

from detectron2.layers import paste_masks_in_image
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import Instances

THINGS = (3, 4)
SIZE = (60, 90)


def make_detections(count: int, seed: int = 0) -> Detections:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=draw) * torch.tensor([80.0, 50.0])
    extent = torch.rand(count, 2, generator=draw) * 30 + 1
    boxes = torch.cat([corner, corner + extent], 1).clamp(max=90)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(max=60)
    masks = torch.rand(count, 1, 28, 28, generator=draw)
    masks = torch.nn.functional.avg_pool2d(masks, 5, 1, 2)[:, 0] * 1.3
    return Detections(
        boxes,
        torch.rand(count, generator=draw),
        torch.randint(0, 2, (count,), generator=draw),
        masks,
    )


def logits_of(labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, 5).permute(2, 0, 1).float() * 4


@pytest.mark.parametrize("count", [0, 1, 60, 300])
def test_score_order_is_detectron2s(count: int) -> None:
    found = make_detections(count)
    labels = torch.randint(0, 5, SIZE, generator=torch.Generator().manual_seed(1))
    settings = MergingSettings("score_order", min_score=0.3, most_hidden=0.5, stuff_area=200)
    ours, table = merge_detections(logits_of(labels), found, THINGS, settings)
    instances = Instances(SIZE)
    instances.scores, instances.pred_classes = found.scores, found.classes
    instances.pred_masks = paste_masks_in_image(found.masks, found.boxes, SIZE)
    # To Detectron2 label 0 is "some thing", so stuff is shifted by one.
    stuff = torch.where(labels < 3, labels + 1, 0)
    theirs, segments = combine_semantic_and_instance_outputs(instances, stuff, 0.5, 200, 0.3)
    assert torch.equal(ours, theirs)
    assert len(table) == len(segments) and (count == 0 or any(s["isthing"] for s in table))
    for one, two in zip(table, segments, strict=True):
        category = two["category_id"]
        expected = THINGS[category] if two["isthing"] else category - 1
        assert (one["id"], one["category_id"]) == (two["id"], expected)
        assert one["area"] == int((ours == one["id"]).sum())
        if one["isthing"]:
            assert one["score"] == pytest.approx(two["score"])


def two_boxes() -> Detections:
    boxes = torch.tensor([[0.0, 0.0, 6.0, 4.0], [2.0, 0.0, 8.0, 4.0]])
    return Detections(
        boxes, torch.tensor([0.97, 0.99]), torch.tensor([1, 0]), torch.ones(2, 28, 28)
    )


def test_edaps_by_hand() -> None:
    # Class 0 of the things comes first, the other is painted over it; semantics say what they are.
    labels = torch.zeros(6, 10, dtype=torch.long)
    labels[:4, :8] = 4
    labels[:4, 0] = 1
    settings = MergingSettings("edaps", min_score=0.95, stuff_area=4)
    ours, table = merge_detections(logits_of(labels), two_boxes(), THINGS, settings)
    expected = torch.zeros(6, 10, dtype=torch.int32)
    expected[:4, 1:6], expected[:4, 6:8] = 1, 2
    expected[4:], expected[:4, 8:] = 3, 3
    # Column 0 is stuff below a mask: void.
    assert torch.equal(ours, expected)
    assert [(s["category_id"], s["isthing"], s["area"]) for s in table] == [
        (4, True, 20),
        (4, True, 8),
        (0, False, 28),
    ]
    assert [s["score"] for s in table[:2]] == pytest.approx([0.97, 0.99])


def test_a_hidden_detection_is_dropped_by_score_order() -> None:
    # The surer one covers 4 of the other's 6 columns.
    labels = torch.zeros(6, 10, dtype=torch.long)
    for most_hidden, expected in ((0.6, [3]), (0.7, [3, 4])):
        settings = MergingSettings("score_order", 0.5, most_hidden, 100)
        _, table = merge_detections(logits_of(labels), two_boxes(), THINGS, settings)
        assert [s["category_id"] for s in table] == expected


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UserError, match="score_order, edaps"):
        MergingSettings("first")
