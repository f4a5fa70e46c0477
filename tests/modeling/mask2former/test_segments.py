"""Segments of queries: by hand, and against whole upsampled masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gbw_d2.modeling.mask2former.resampling import Frame
from gbw_d2.modeling.mask2former.segments import (
    SegmentSettings,
    panoptic_result,
    query_segments,
    semantic_logits,
)

ROAD, SKY, CAR = 0, 1, 2
SURE = 8.0
SAME = Frame((4, 8), (4, 8), (4, 8), (4, 8))


def classes_of(*wanted: int) -> torch.Tensor:
    """Class logits of queries that are sure of a class; 3 = no object."""
    return SURE * F.one_hot(torch.tensor(wanted), 4).float()


def masks_from(*texts: str) -> torch.Tensor:
    """Mask logits from rows of '#' (inside), '+' (inside, less sure) and '.' (outside)."""
    values = {"#": 6.0, "+": 1.0, ".": -6.0}
    return torch.tensor([[[values[c] for c in row] for row in t.split()] for t in texts])


LEFT = "##...... ##...... ##...... ##......"
RIGHT = "......## ......## ......## ......##"
MIDDLE = "...++... ...++... ...++... ...++..."


def test_things_are_apart_and_stuff_is_one() -> None:
    classes = classes_of(ROAD, ROAD, CAR, 3)
    masks = masks_from(LEFT, RIGHT, MIDDLE, MIDDLE)
    found, table = panoptic_result(classes, masks, SAME, (CAR,), SegmentSettings())
    row = [1, 1, 0, 2, 2, 0, 1, 1]
    assert found.tolist() == [row] * 4 and found.dtype == torch.int32
    assert [(s["id"], s["category_id"], s["isthing"], s["area"]) for s in table] == [
        (1, ROAD, False, 16),
        (2, CAR, True, 8),
    ]
    car = classes[2].softmax(0)[CAR] * torch.tensor(1.0).sigmoid()
    assert table[1]["score"] == pytest.approx(car.item(), rel=1e-5)


def test_the_surer_query_wins_and_the_covered_one_goes() -> None:
    classes = classes_of(CAR, CAR)
    masks = masks_from("#####... " * 4, "..+++... " * 4)
    found, table = panoptic_result(classes, masks, SAME, (CAR,), SegmentSettings())
    assert [s["area"] for s in table] == [20]
    # The lesser one wins 2 of its 3 columns: below 0.8 it is dropped, and what it won is void.
    masks = masks_from("###..... " * 4, "..+++... " * 4)
    found, table = panoptic_result(classes, masks, SAME, (CAR,), SegmentSettings())
    assert found[0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    found, table = panoptic_result(classes, masks, SAME, (CAR,), SegmentSettings(overlap=0.5))
    assert found[0].tolist() == [1, 1, 1, 2, 2, 0, 0, 0] and len(table) == 2


def test_nothing_found() -> None:
    for classes in (classes_of(3, 3), 0.1 * classes_of(CAR, ROAD)):
        found, table = panoptic_result(
            classes, masks_from(LEFT, RIGHT), SAME, (CAR,), SegmentSettings()
        )
        assert table == [] and not found.any()
    # A class and an empty mask.
    empty = torch.full((1, 4, 8), -6.0)
    found, table = panoptic_result(classes_of(CAR), empty, SAME, (CAR,), SegmentSettings())
    assert table == [] and not found.any()


def test_confidence_and_the_greatest_of_all_segments() -> None:
    is_thing = torch.tensor([False, False, True])
    classes = classes_of(ROAD, CAR, CAR)
    masks = masks_from(LEFT, MIDDLE, ".##..... " * 4)
    found = query_segments(classes, masks, SAME, is_thing, SegmentSettings(), with_greatest=True)
    # The third one ties with the first on one column of two, and keeps half of its mask.
    assert found.slots[0].tolist() == [1, 1, 0, 5, 5, 0, 0, 0]
    assert found.classes.tolist() == [255, ROAD, SKY, CAR, ROAD, CAR, CAR]
    p = classes.softmax(1).max(1).values
    rho = p.view(-1, 1, 1) * masks.sigmoid()
    inside = found.slots > 0
    torch.testing.assert_close(found.confidence[inside], rho[:2].amax(0)[inside])
    assert not found.confidence[~inside].any()
    torch.testing.assert_close(found.greatest, rho[:2].amax(0))


@pytest.mark.parametrize("size", [(40, 52), (80, 104), (33, 47)])
def test_pieces_equal_whole_masks(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, 12, 16)
    frame = Frame((12, 16), (48, 64), (40, 52), size)
    padded = F.interpolate(maps[None], size=(48, 64), mode="bilinear", align_corners=False)
    whole = frame.whole(maps)
    if size == (40, 52):
        torch.testing.assert_close(whole, padded[0, :, :40, :52], atol=1e-5, rtol=1e-5)
    monkeypatch.setattr("gbw_d2.modeling.mask2former.resampling._PIECE", 500)
    assert torch.equal(frame.whole(maps), whole)
    assert len(list(frame.pieces(maps))) > 5


def test_where_nothing_fires_the_semantic_prediction_is_uniform() -> None:
    classes = torch.stack([classes_of(CAR, 3), classes_of(ROAD, SKY)])
    masks = torch.full((2, 2, 1, 3), -40.0)
    masks[0, 0, 0, 1] = 40.0
    masks[1, :, 0, 2] = 40.0
    p = semantic_logits(classes, masks).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(2, 1, 3))
    torch.testing.assert_close(p[0, :, 0, 0], torch.full((3,), 1 / 3))
    assert p[0, CAR, 0, 1] > 0.99
    # Two queries claim a pixel: what they say is shared out.
    torch.testing.assert_close(p[1, :2, 0, 2], torch.tensor([0.5, 0.5]), atol=1e-3, rtol=0)
    # One that half claims it leaves the rest to all classes: s = 1/2, R = 1/2.
    half = semantic_logits(100 * classes_of(CAR)[None], torch.zeros(1, 1, 1, 1)).exp()
    torch.testing.assert_close(half[0, :, 0, 0], torch.tensor([1 / 6, 1 / 6, 2 / 3]))


def test_semantic_logits_have_gradients_everywhere() -> None:
    classes = torch.randn(1, 4, 4, requires_grad=True)
    masks = (50 * torch.randn(1, 4, 2, 3)).requires_grad_()
    semantic_logits(classes, masks).square().sum().backward()
    assert classes.grad.isfinite().all() and masks.grad.isfinite().all()
