"""Label spaces: how they meet by name, by hand; tables that take maps from one to another."""

from __future__ import annotations

import json

import numpy as np
import pytest
from panopticapi.utils import id2rgb

from gbw_d2.cityscapes_classes import CLASSES, TRAIN_IDS_16
from gbw_d2.class_tables import (
    colors_of_ids,
    ids_of_colors,
    is_identity,
    regrouped,
    translated_segments,
)
from gbw_d2.data.spec import DatasetSpec
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import (
    CITYSCAPES_19,
    LABEL_SPACES,
    LabelSpace,
    SemanticClass,
    scoring,
    space_from_dict,
    training_table,
)


def space(*names: str, name: str = "mine", things: str = "", **more: object) -> LabelSpace:
    rows = tuple(SemanticClass(n, n in things.split(), (i, i, i)) for i, n in enumerate(names))
    return LabelSpace(name, rows, **more)  # type: ignore[arg-type]


# --- the built-in ones --------------------------------------------------------------------------


def test_the_built_in_spaces() -> None:
    assert LABEL_SPACES.names() == ["camvid_11", "cityscapes_13", "cityscapes_16", "cityscapes_19"]
    assert [c.name for c in CITYSCAPES_19.classes] == [c.name for c in CLASSES]
    assert [c.raw_id for c in CITYSCAPES_19.classes] == [c.cityscapes_id for c in CLASSES]
    sixteen = LABEL_SPACES.get("cityscapes_16")
    assert sixteen.family is CITYSCAPES_19
    assert sixteen.left_out == {"terrain", "truck", "train"}
    assert sixteen.to_family[:17].tolist() == [*TRAIN_IDS_16, 255]


def test_what_a_subset_leaves_out_is_void_in_training_and_truth_in_tests() -> None:
    sixteen = LABEL_SPACES.get("cityscapes_16")
    table = training_table(CITYSCAPES_19, sixteen)
    assert [i for i in range(19) if table[i] == 255] == [9, 14, 16]
    met = scoring(sixteen, CITYSCAPES_19)
    assert met.space is CITYSCAPES_19 and is_identity(met.truth[:19])
    assert met.prediction[:16].tolist() == [*TRAIN_IDS_16]
    assert set(met.space.class_names) - set(met.predictable) == {"terrain", "truck", "train"}


# --- meeting by name ----------------------------------------------------------------------------


def test_the_order_does_not_matter() -> None:
    a, b = space("sky", "road", "car"), space("car", "sky", "road")
    assert training_table(a, b)[:4].tolist() == [1, 2, 0, 255]


@pytest.mark.parametrize("meet", [training_table, scoring])
def test_classes_without_a_partner_are_told_on_both_sides(meet: object) -> None:
    a, b = space("road", "car", "bus", name="a"), space("road", "vehicle", name="b")
    with pytest.raises(UserError) as error:
        meet(a, b)  # type: ignore[operator]
    assert "'a' alone has car, bus" in str(error.value)
    assert "'b' alone has vehicle" in str(error.value) and "merge:" in str(error.value)


def test_a_network_joins_classes_of_a_finer_source_and_test_set() -> None:
    coarse = space("road", "vehicle", aliases={"car": "vehicle", "bus": "vehicle", "sky": "void"})
    fine = space("sky", "bus", "road", "car", name="fine")
    assert training_table(fine, coarse)[:4].tolist() == [255, 1, 0, 1]
    met = scoring(coarse, fine)
    assert met.space.class_names == ("vehicle", "road")  # in the order of the test set
    assert met.truth[:4].tolist() == [255, 0, 1, 0]
    assert met.prediction[:2].tolist() == [1, 0] and met.network is coarse


def test_a_coarser_test_set_is_scored_on_what_it_has() -> None:
    fine = space("road", "car", "bus", "wall", name="fine", subsets={"rare": ("bus", "road")})
    coarse = space("vehicle", "road", aliases={"car": "vehicle", "bus": "vehicle", "wall": "void"})
    met = scoring(fine, coarse)
    assert met.space is coarse and met.prediction[:5].tolist() == [1, 0, 0, 255, 255]
    assert met.predictable == ("vehicle", "road") and met.subsets == {"rare": ("vehicle", "road")}


def test_limits_of_a_space() -> None:
    names = [str(i) for i in range(254)]
    assert space(*names).num_classes == 254
    for wrong, message in (
        ((), "0 classes"),
        ((*names, "x"), "255 classes"),
        (("a", "a"), "twice"),
    ):
        with pytest.raises(UserError, match=message):
            space(*wrong)


def test_it_travels_as_plain_python() -> None:
    mine = space(
        "зебра", "自転車", things="зебра", aliases={"a": "зебра"}, subsets={"s": ("зебра",)}
    )
    for each in (mine, LABEL_SPACES.get("cityscapes_13")):
        assert space_from_dict(json.loads(json.dumps(each.as_dict()))) == each
    with pytest.raises(UserError, match="cannot be read"):
        space_from_dict({"name": "x"})


def test_a_read_space_replaces_an_older_one_but_no_built_in_one() -> None:
    first = LABEL_SPACES.adopt(space("a", name="test/data.yaml"))
    assert LABEL_SPACES.get("test/data.yaml") is first
    second = LABEL_SPACES.adopt(space("b", name="test/data.yaml"))
    assert LABEL_SPACES.get("test/data.yaml") is second
    assert "test/data.yaml" not in LABEL_SPACES.names()
    with pytest.raises(UserError, match="other classes than the built-in one"):
        LABEL_SPACES.adopt(space("a", name="cityscapes_16"))
    same = LabelSpace("cityscapes_19", CITYSCAPES_19.classes)
    assert LABEL_SPACES.adopt(same) is CITYSCAPES_19


# --- maps ---------------------------------------------------------------------------------------


def test_segments_are_translated() -> None:
    # Stuff 0 and 1 become one class, stuff 2 void, thing 3 a thing, thing 4 stuff, stuff 5 a thing.
    table = np.full(256, 255, np.uint8)
    table[[0, 1, 3, 4, 5]] = 7, 7, 8, 7, 9
    was, now = np.zeros(256, bool), np.zeros(256, bool)
    was[[3, 4]] = True
    now[[8, 9]] = True
    segment_map = np.array([[10, 11, 12], [13, 14, 15], [0, 0, 14]], np.int32)
    areas = {10: 1, 11: 1, 12: 1, 13: 1, 14: 2, 15: 1}
    segments = [
        {"id": 10 + c, "category_id": c, "iscrowd": int(c == 4), "area": areas[10 + c]}
        for c in range(6)
    ]
    before = segment_map.copy()
    found, info = translated_segments(segment_map, segments, table, now, was)
    assert np.array_equal(segment_map, before)
    assert found.tolist() == [[10, 10, 0], [13, 10, 15], [0, 0, 10]]
    assert info == [
        {"id": 10, "category_id": 7, "iscrowd": 0, "area": 4},
        {"id": 13, "category_id": 8, "iscrowd": 0, "area": 1},
        {"id": 15, "category_id": 9, "iscrowd": 1, "area": 1},
    ]
    # What changes nothing is not copied.
    same, _ = translated_segments(segment_map, segments[3:4], table, now, was)
    assert same is segment_map


def test_a_stuff_class_that_is_a_thing_elsewhere_becomes_a_crowd() -> None:
    def space(things: tuple[bool, bool]) -> LabelSpace:
        names = ("road", "person")
        classes = (
            SemanticClass(n, t, (9, i, 0))
            for i, (n, t) in enumerate(zip(names, things, strict=True))
        )
        return LabelSpace("own", tuple(classes))

    segments = [{"id": 5, "category_id": 1, "iscrowd": 0, "area": 4}]
    spec = DatasetSpec(
        name="own",
        load=list,
        read_panoptic=lambda _: (np.full((2, 2), 5, np.int32), segments),
        label_space=space((False, False)),
    )
    read = spec.in_space(space((False, True))).read_panoptic
    assert read is not None and read({})[1][0]["iscrowd"] == 1
    same = spec.in_space(space((False, False))).read_panoptic
    assert same is spec.read_panoptic


@pytest.mark.parametrize("axis", [0, 1])
def test_counts_are_regrouped(axis: int) -> None:
    table = np.full(256, 255, np.uint8)
    table[:4] = 1, 255, 0, 1
    counts = np.array([[1, 2, 4, 8], [10, 20, 40, 80]])
    counts = counts.T if axis == 0 else counts
    expected = np.array([[4, 9, 0], [40, 90, 0]])
    found = regrouped(counts, table, 3, axis)
    assert np.array_equal(found, expected.T if axis == 0 else expected)


def test_colors_of_ids_are_those_of_panopticapi() -> None:
    ids = np.random.default_rng(0).integers(0, 1 << 24, (7, 9))
    ids[0, :2] = 0, (1 << 24) - 1
    colors = colors_of_ids(ids)
    assert np.array_equal(colors[..., ::-1], id2rgb(ids.copy()))
    assert np.array_equal(ids_of_colors(colors), ids)
    with pytest.raises(ValueError, match="three bytes"):
        colors_of_ids(np.array([[1 << 24]]))
