"""Matching against Detectron2's, ignore regions by hand, and random draws per image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gbw_d2.modeling.rois.labelling import (
    box_deltas,
    box_overlaps,
    draw_rows,
    ignored_shares,
    image_generators,
    match_boxes,
    without_ignored,
)

from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, pairwise_iou


def make_boxes(count: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=draw) * 50
    return torch.cat([corner, corner + torch.rand(count, 2, generator=draw) * 30 + 1], 1)


@pytest.mark.parametrize("low_quality", [False, True])
def test_matches_are_detectron2s(low_quality: bool) -> None:
    boxes, candidates = make_boxes(7, 0), make_boxes(200, 1)
    matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=low_quality)
    rows, labels = match_boxes(boxes, torch.ones(7, dtype=torch.bool), candidates, matcher)
    expected_rows, expected = matcher(pairwise_iou(Boxes(boxes), Boxes(candidates)))
    assert torch.equal(rows, expected_rows) and torch.equal(labels, expected.long())
    assert set(labels.tolist()) == {-1, 0, 1} or not low_quality


@pytest.mark.parametrize("whole_pixels", [False, True])
def test_overlaps_are_detectron2s_bit_for_bit(whole_pixels: bool) -> None:
    boxes, candidates = make_boxes(9, 0), make_boxes(50, 1)
    if whole_pixels:
        boxes, candidates = boxes.round(), candidates.round()
    # Without area: a point, a line, and a row that holds no box.
    boxes[0, 2:] = boxes[0, :2]
    boxes[1, 2] = boxes[1, 0]
    boxes[2] = 0
    candidates[0, 2:] = candidates[0, :2]
    candidates[1, 3] = candidates[1, 1]
    candidates[2], candidates[3] = 0, boxes[5]
    found = box_overlaps(boxes, candidates)
    assert torch.equal(found, pairwise_iou(Boxes(boxes), Boxes(candidates)))
    assert found[5, 3] == 1 and (found > 0).any(1).tolist() == [False] * 3 + [True] * 6


def test_rows_without_an_instance_claim_nothing() -> None:
    matcher = Matcher([0.5], [0, 1], allow_low_quality_matches=True)
    empty = torch.zeros(1, 4)
    for boxes, there in ((empty, torch.zeros(1, dtype=torch.bool)), (empty[:0], empty[:0, 0] > 0)):
        _, labels = match_boxes(boxes, there, make_boxes(5, 0), matcher)
        assert labels.tolist() == [0] * 5


def test_ignore_regions_by_hand() -> None:
    ignored = torch.zeros(4, 8, dtype=torch.bool)
    ignored[:, :4] = True
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [3, 1, 7, 2], [5, 0, 5, 4], [-4, 0, 8, 4]])
    assert ignored_shares(ignored, boxes).tolist() == [1, 0.5, 0.25, 0, 0.5]
    labels = torch.tensor([9, 9, 9, 9, 1])
    assert without_ignored(labels, 9, ignored, boxes).tolist() == [-1, -1, 9, 9, 1]


@pytest.mark.parametrize("shares", [(0.3, 0.5), (0.02, 0.5), (0.9, 0.1), (0.0, 1.0), (0.1, 0.0)])
def test_as_many_are_drawn_as_by_detectron2(shares: tuple[float, float]) -> None:
    draw = torch.rand(300, generator=torch.Generator().manual_seed(0))
    objects, background = shares
    labels = torch.where(draw < objects, 1, torch.where(draw < objects + background, 3, -1))
    expected = [set(rows.tolist()) for rows in subsample_labels(labels, 64, 0.25, 3)]
    drawn = draw_rows(labels[None], 64, 0.25, 3, [None])
    found = [drawn.objects[drawn.is_object], drawn.rest[drawn.is_rest]]
    for rows, theirs, label in zip(found, expected, (1, 3), strict=True):
        assert len(set(rows.tolist())) == len(rows) == len(theirs)
        assert (labels[rows] == label).all()
        # Where all there are is drawn, nothing is left to chance.
        if len(theirs) == int((labels == label).sum()):
            assert set(rows.tolist()) == theirs
    for used in (drawn.is_object[0], drawn.is_rest[0]):
        assert used.tolist() == sorted(used.tolist(), reverse=True)


def test_every_box_is_drawn_as_often() -> None:
    labels = torch.zeros(2000, 10, dtype=torch.long)
    labels[:, ::2] = 1
    drawn = draw_rows(labels, 4, 0.5, 0, [torch.Generator().manual_seed(i) for i in range(2000)])
    counts = torch.cat([drawn.objects[drawn.is_object], drawn.rest[drawn.is_rest]]).bincount()
    # 2000 draws of 2 among 5 on either side; the standard deviation is 22.
    assert ((counts - 800).abs() < 110).all()


def test_deltas_are_detectron2s() -> None:
    boxes, truth = make_boxes(50, 0), make_boxes(50, 1)
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(
        box_deltas(transform, boxes, truth), transform.get_deltas(boxes, truth)
    )


def test_an_image_is_drawn_alike_in_any_batch() -> None:
    cpu = torch.device("cpu")

    def drawn(keys: list[int]) -> list[list[int]]:
        generators = image_generators([np.random.default_rng(k) for k in keys], len(keys), cpu)
        labels = torch.zeros(len(keys), 100, dtype=torch.long)
        return draw_rows(labels, 10, 0.5, 0, generators).rest.tolist()

    assert drawn([1, 2]) == [*drawn([1]), *drawn([2])]
    assert drawn([1]) != drawn([2])
