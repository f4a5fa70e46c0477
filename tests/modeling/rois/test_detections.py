"""Detections of views, windows and other sizes are mapped back to the image."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gbw_d2 import keys
from gbw_d2.engine.build import build_model
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.modeling.merging import Detections
from gbw_d2.modeling.protocol import Outputs, SemanticPrediction, View
from gbw_d2.modeling.rois.detections import joined, placed, scaled

SPACE = LABEL_SPACES.get("cityscapes_16")
SIZE = (32, 64)


def detections(*boxes: tuple[float, ...]) -> Detections:
    count = len(boxes)
    masks = torch.zeros(count, 14, 14)
    masks[:, :, :7] = 1  # the left half of each box
    scores = torch.linspace(0.9, 0.8, count)
    return Detections(torch.tensor(boxes), scores, torch.zeros(count, dtype=torch.long), masks)


def test_a_window_of_a_mirrored_larger_view_by_hand() -> None:
    # The view is twice as large and mirrored; the window begins at row 8, column 20 of it.
    view = View((64, 128), True, [])
    place = (slice(8, 64), slice(20, 84))
    found = placed(detections((4.0, 2.0, 24.0, 12.0)), place, view, SIZE)
    # In the view 24..44, mirrored 84..104, in the image 42..52; rows 10..20 of it are 5..10.
    assert found.boxes.tolist() == [[42.0, 5.0, 52.0, 10.0]]
    assert (found.masks[0, :, 7:] == 1).all() and (found.masks[0, :, :7] == 0).all()


def test_what_lies_outside_is_cut_off_or_gone() -> None:
    found = scaled(detections((-4.0, 0.0, 8.0, 8.0), (70.0, 0.0, 80.0, 8.0)), SIZE, (16, 32))
    assert found.boxes.tolist() == [[0.0, 0.0, 4.0, 4.0]] and len(found) == 1


def test_of_two_views_of_one_object_the_surest_stays() -> None:
    one, two = detections((0.0, 0, 10, 10), (30.0, 0, 40, 10)), detections((1.0, 0, 11, 10))
    both = joined([one, two], 0.5, 100)
    assert both.boxes.tolist() == [[0.0, 0, 10, 10], [30.0, 0, 40, 10]]
    assert len(joined([one, two], 0.5, 1)) == 1


def outputs_of(labels: torch.Tensor, found: Detections) -> Outputs:
    logits = torch.nn.functional.one_hot(labels, SPACE.num_classes).permute(2, 0, 1)[None] * 9.0
    return Outputs(SemanticPrediction(logits, tuple(labels.shape)), None, [found])


@pytest.mark.parametrize("rule", ["score_order", "edaps"])
@torch.no_grad()
def test_flips_and_scales_give_the_map_of_the_image(tiny_config: Any, rule: str) -> None:
    cfg = tiny_config(
        *("MODEL.PANOPTIC_FPN.COMBINE.RULE", rule),
        name="toy/panoptic_gbw models/panoptic_fpn_tiny",
    )
    model = build_model(cfg).eval()
    person = SPACE.thing_ids[0]
    labels = torch.zeros(SIZE, dtype=torch.long)
    labels[8:24, 16:24] = person
    found = detections((16.0, 8.0, 32.0, 24.0))
    whole = (slice(0, SIZE[0]), slice(0, SIZE[1]))
    larger = labels.repeat_interleave(2, 0).repeat_interleave(2, 1)
    mirrored = found.boxes.new_tensor([[64.0, 16.0, 96.0, 48.0]])
    flipped = Detections(mirrored, found.scores, found.classes, found.masks.flip(2))
    views = [
        View(SIZE, False, [(whole, outputs_of(labels, found))]),
        View(
            (64, 128), True, [((slice(0, 64), slice(0, 128)), outputs_of(larger.flip(1), flipped))]
        ),
    ]
    sample = {keys.HEIGHT: SIZE[0], keys.WIDTH: SIZE[1]}
    segments, table = model.merge_views(views, SIZE, sample)[keys.PANOPTIC_SEG]
    alone, alone_table = model.merge_views(views[:1], SIZE, sample)[keys.PANOPTIC_SEG]
    assert torch.equal(segments, alone)
    assert [s["category_id"] for s in table] == [s["category_id"] for s in alone_table]
    # One object although two views found it, in the left half of its box.
    assert [s["isthing"] for s in table].count(True) == 1 and table[0]["category_id"] == person
    assert (segments[8:24, 16:24] == table[0]["id"]).all()
    assert (segments == table[0]["id"]).sum() == 16 * 8
