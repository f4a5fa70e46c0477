"""Numbered instances: crowds and small ones are ignored, boxes follow from what is visible."""

from __future__ import annotations

import numpy as np
import torch

from gbw_d2.modeling.targets.instances import (
    InstanceTargetGenerator,
    InstanceTargets,
    numbered_instances,
    taught_instances,
)

THINGS = (5, 7)


def test_instances_by_hand() -> None:
    segments = np.array([[0, 1, 2, 2], [3, 1, 4, 2], [3, 9, 6, 6]])
    info = [
        {"id": 1, "category_id": 0, "iscrowd": 0},
        {"id": 2, "category_id": 7, "iscrowd": 0},
        {"id": 3, "category_id": 5, "iscrowd": 1},
        {"id": 4, "category_id": 5, "iscrowd": 0},
        {"id": 6, "category_id": 5, "iscrowd": 0},
        {"id": 8, "category_id": 5, "iscrowd": 0},
        {"id": 9, "category_id": 255, "iscrowd": 0},
    ]
    made = numbered_instances(segments, info, THINGS)
    assert made["instance_numbers"].tolist() == [[-1, 0, 1, 1], [-1, 0, 2, 1], [-1, -1, 3, 3]]
    assert made["instance_classes"].tolist() == [1, 0, 0]
    made = numbered_instances(segments, info, THINGS, min_area=2)
    assert made["instance_numbers"].tolist() == [[-1, 0, 1, 1], [-1, 0, -1, 1], [-1, -1, 2, 2]]
    assert InstanceTargetGenerator(THINGS)(segments, None, []) == {}


def test_boxes_and_mixing_by_hand() -> None:
    one = InstanceTargets(
        torch.tensor([[[1, 1, 0], [-1, 1, 2]]], dtype=torch.int32), torch.tensor([[4, 3, -1]])
    )
    boxes, there = one.boxes()
    assert boxes.tolist() == [[[0, 0, 2, 2], [2, 1, 3, 2], [0, 0, 0, 0]]]
    assert there.tolist() == [[True, True, False]]
    two = InstanceTargets(
        torch.tensor([[[1, 1, 1], [1, 0, -1]]], dtype=torch.int32), torch.tensor([[6]])
    )
    mask = torch.tensor([[[True, False, False], [False, False, True]]])
    mixed = one.mixed_onto(mask, two)
    assert mixed.numbers.tolist() == [[[1, 4, 4], [4, 0, 2]]]
    assert mixed.classes.tolist() == [[4, 3, -1, 6]]
    boxes, there = mixed.boxes()
    assert there.tolist() == [[True, True, False, True]]
    assert boxes[0, 3].tolist() == [0, 0, 3, 2]


def test_no_instance() -> None:
    nothing = InstanceTargets(torch.zeros(2, 3, 4, dtype=torch.int32), torch.zeros(2, 0).long())
    boxes, there = nothing.boxes()
    assert boxes.shape == (2, 0, 4) and there.shape == (2, 0)


def test_instances_of_a_teachers_segments() -> None:
    # Void, a stuff, two things of which one is not wanted, and a segment that is too small.
    owners = torch.tensor([[[0, 1, 2, 3, 4]]])
    classes = torch.tensor([[255, 0, 7, 5, 255]])
    wanted = torch.tensor([[True, True, True, False, True]])
    found = taught_instances(owners, classes, wanted, THINGS)
    assert found.numbers.tolist() == [[[-1, 0, 2, -1, -1]]]
    assert found.classes.tolist() == [[-1, 1, -1, -1]]
    boxes, there = found.boxes()
    assert there.tolist() == [[False, True, False, False]]
    assert boxes[0, 1].tolist() == [2, 0, 3, 1]
