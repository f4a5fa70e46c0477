"""Labels of another coding, or cut off by a tool, look odd; those of a street do not."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gbw_d2.data.formats.own.survey import Look, all_void, look_at_label, summary, suspicions
from gbw_d2.label_spaces import CITYSCAPES_19

sys.path.insert(0, str(Path(__file__).parents[2] / "datasets"))
from prepare_common import spread

CAR = CITYSCAPES_19.class_names.index("car")


def look(cars: int = 2, saturated: bool = False, **pixels: int) -> Look:
    found = Look("a.png", saturated=saturated)
    for name, count in pixels.items():
        found.pixels[255 if name == "void" else CITYSCAPES_19.class_names.index(name)] = count
    found.instances[CAR] = cars
    return found


STREET = {name: 10 for name in CITYSCAPES_19.class_names if " " not in name}


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (look(**STREET, void=20), []),
        (look(road=8, void=92), ["92% of all pixels", "100% is road", "18 of 19 classes"]),
        (look(cars=0, **STREET), ["pixels of .*car"]),
        (look(cars=1, **STREET), ["no picture shows two objects"]),
        (look(saturated=True, **STREET), ["10 instance files hold no number but 255"]),
    ],
)
def test_suspicions(one: Look, words: list[str]) -> None:
    one.instances[list(CITYSCAPES_19.thing_ids)] = one.instances[CAR]
    found = suspicions(summary(CITYSCAPES_19, [one] * 10, [], has_instances=True))
    assert len(found) == len(words), found
    for text, pattern in zip(found, words, strict=True):
        assert re.search(pattern, text)


def test_nothing_but_void_is_a_problem() -> None:
    found = summary(CITYSCAPES_19, [look(cars=0, void=9)], [], has_instances=False)
    assert "all pixels of 1 labels are void" in all_void(found)[0]
    assert not all_void(summary(CITYSCAPES_19, [look(road=1, void=9)], [], has_instances=False))


def test_a_segment_map_is_counted() -> None:
    segments = [
        {"id": 1, "category_id": 0, "iscrowd": 0},
        {"id": 2, "category_id": CAR, "iscrowd": 0},
        {"id": 3, "category_id": CAR, "iscrowd": 1},
    ]
    found = look_at_label("a.png", (np.array([[1, 1, 2], [3, 0, 0]]), segments))
    assert (found.pixels[0], found.pixels[CAR], found.pixels[255]) == (2, 2, 2)
    assert found.instances[CAR] == 1


@pytest.mark.parametrize("number", [1, 99, 100, 101, 103, 2975, 9400])
def test_a_sample_of_100_reads_100(number: int) -> None:
    records = [{"image_id": i} for i in range(number)]
    chosen = spread(records, 100)
    assert len(chosen) == min(number, 100)
    assert len({r["image_id"] for r in chosen}) == len(chosen)
    assert spread(records, 0) == records


def test_training_warns_of_void(caplog: pytest.LogCaptureFixture) -> None:
    from gbw_d2.engine.batches import warn_of_void

    void = [{"sem_seg": torch.full((2, 2), 255)}]
    road = [{"sem_seg": torch.tensor([[255, 0]])}]
    with caplog.at_level(logging.WARNING, "gbw_d2"):
        assert list(warn_of_void([void, void, road, void, void], 3)) == [
            void,
            void,
            road,
            *[void] * 2,
        ]
        assert not caplog.records
        assert len(list(warn_of_void([void] * 7, 3))) == 7
    assert [r.args for r in caplog.records] == [(3,)]
