"""Labels with another coding or truncated values cause a warning; ordinary labels do not."""

from __future__ import annotations

import logging
import re
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from own_data import write_own_data, write_png

from gbw_d2.data.formats.own import load_split, read_description
from gbw_d2.data.formats.own.survey import survey
from gbw_d2.data.survey import (
    Look,
    all_void,
    is_saturated,
    look_at_label,
    of_counts,
    summary,
    suspicions,
    table,
)
from gbw_d2.label_spaces import CITYSCAPES_19
from gbw_d2.toyworld.layouts import LAYOUTS, write_layout

sys.path.insert(0, str(Path(__file__).parents[2] / "datasets"))
import prepare_toy
from prepare_common import spread, tell_classes

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
        (look(saturated=True, **STREET), ["10 instance files number all things 255"]),
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


@pytest.mark.parametrize(
    ("numbers", "kind", "cut"),
    [
        ([26001, 26002], np.int32, False),
        ([300, 301], np.uint16, False),
        ([255, 255], np.uint16, False),
        ([255, 254], np.uint8, False),
        ([255, 255], np.uint8, True),
        ([65535, 65535], np.uint16, True),
    ],
)
def test_numbers_cut_off_by_a_tool(numbers: list[int], kind: type, cut: bool) -> None:
    # The stuff of Cityscapes' coding keeps its small numbers where 8 bits cut those of things.
    values = np.array([[7, *numbers, 0]]).astype(kind)
    things = np.array([[False, True, True, True]])
    assert is_saturated(values, things) is cut


def test_instances_per_image() -> None:
    looks = [look(cars=0, road=5), look(cars=1, car=5), look(cars=4, car=5)]
    lines = table(summary(CITYSCAPES_19, looks, [], has_instances=True)).splitlines()
    cells = {line.split()[0]: line.split()[-4:] for line in lines}
    assert lines[0].endswith("images instances per image  most")
    assert cells["car"] == ["2", "5", "2.50", "4"]
    assert cells["road"] == ["1", "-", "-", "-"]


@pytest.mark.parametrize("saturated", [False, True])
def test_instance_files_of_own_data_cut_off(tmp_path: Path, saturated: bool) -> None:
    data = read_description(write_own_data(tmp_path, 6, images=2))
    if saturated:
        for path in (tmp_path / "instances").iterdir():
            # As cv2.imwrite does with int32.
            write_png(path, np.full((48, 64), 255, np.uint8))
    found = survey(data, "source", load_split(data, "source"), 1, iter)
    assert found.saturated == 2 * saturated
    assert any("all things 255" in text for text in suspicions(found)) is saturated


def test_counted_classes_make_the_same_table(capsys: pytest.CaptureFixture[str]) -> None:
    looks = [look(road=6, void=4), look(car=10)]
    counts = np.array([each.pixels[:19] for each in looks])
    records = [{"height": 2, "width": 5}] * 2
    expected = summary(CITYSCAPES_19, looks, [], has_instances=False)
    assert table(of_counts(CITYSCAPES_19, counts, records)) == table(expected)
    nothing = of_counts(CITYSCAPES_19, np.zeros((2, 19), np.int64), records)
    assert "all pixels of 2 labels are void" in tell_classes(nothing)[0]


@pytest.mark.parametrize(("layout", "shown"), [("gta5", "gta5_semantic_train"), ("own", "source")])
def test_the_toy_worlds_script_shows_classes(
    layout: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    full = LAYOUTS.get(layout)
    small = {"num_source": 2, "num_target_train": 2, "num_target_val": 2, "image_size": (64, 128)}
    layout_of_few = replace(full, settings=replace(full.settings, **small))
    write_layout(tmp_path / f"toy_{layout}", layout_of_few, workers=1)
    monkeypatch.setattr(prepare_toy, "LAYOUTS", SimpleNamespace(get=lambda name: layout_of_few))
    given = {"root": tmp_path / "toy", "layout": layout, "sample": 1, "workers": 1}
    arguments = Namespace(**given, seed=None, images=None, preview=None)
    assert not prepare_toy.check(arguments)
    said = capsys.readouterr().out
    assert f"{shown}: 2 images" in said and "read 1 of 2 images and labels" in said
    assert said.count("share of pixels") == (1 if layout == "gta5" else 2)
