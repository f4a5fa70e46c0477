"""Segments as slots: by hand."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from gbw_d2.modeling.targets.slots import (
    SLOT_CLASSES,
    SLOTS,
    SlotTargetGenerator,
    SlotTargets,
    mixed_slots,
    slots_of_classes,
    stuff_slots,
)

ROAD, SKY, CAR = 0, 1, 2


def test_things_stuff_crowds_and_void() -> None:
    segments = np.array([[7, 7, 0, 5], [9, 9, 5, 5], [3, 3, 3, 8]], np.int32)
    info = [
        {"id": 7, "category_id": SKY, "iscrowd": 0},
        {"id": 9, "category_id": CAR, "iscrowd": 0},
        {"id": 5, "category_id": CAR, "iscrowd": 0},
        {"id": 3, "category_id": CAR, "iscrowd": 1},
        {"id": 8, "category_id": 255, "iscrowd": 0},
        {"id": 99, "category_id": CAR, "iscrowd": 0},  # not in this crop
    ]
    generate = pickle.loads(pickle.dumps(SlotTargetGenerator(3, (CAR,))))
    made = generate(np.zeros((3, 4), np.uint8), segments, info)
    assert made[SLOTS].tolist() == [[2, 2, 0, 5], [4, 4, 5, 5], [0, 0, 0, 0]]
    assert made[SLOT_CLASSES].tolist() == [255, ROAD, SKY, CAR, CAR, CAR]
    assert generate(np.zeros((3, 4), np.uint8), None, []) == {}
    empty = generate(np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.int32), [])
    assert empty[SLOT_CLASSES].tolist() == [255, ROAD, SKY, CAR] and not empty[SLOTS].any()


def test_classes_as_segments() -> None:
    found = slots_of_classes(torch.tensor([[[0, 2], [255, 2]]]), 3)
    assert found.slots.tolist() == [[[1, 3], [0, 3]]]
    assert found.present().tolist() == [[False, True, False, True]]


def test_pasting_joins_stuff_and_keeps_things_apart() -> None:
    stuff = stuff_slots(3)
    source = SlotTargets(
        torch.tensor([[[1, 1, 4, 4]]]), torch.cat([stuff, torch.tensor([CAR])])[None]
    )
    target = SlotTargets(
        torch.tensor([[[4, 1, 5, 5]]]),
        torch.cat([stuff, torch.tensor([CAR, CAR])])[None],
        reliable=torch.tensor([[[True, False, False, True]]]),
        usable=torch.tensor([[[False, False, True, True]]]),
        no_object=torch.tensor([0.5]),
        least_area=2,
    )
    mask = torch.tensor([[[False, True, True, False]]])
    mixed = mixed_slots(mask, source, target, 4)
    assert mixed.slots.tolist() == [[[5, 1, 4, 6]]]
    assert mixed.classes.tolist() == [[255, ROAD, SKY, CAR, CAR, CAR, CAR]]
    assert mixed.reliable.tolist() == [[[True, True, True, True]]]
    assert mixed.usable.tolist() == [[[False, True, True, True]]]
    assert mixed.no_object.tolist() == [0.5]
    # All of these segments have one pixel left.
    assert not mixed.present().any()
