"""Scores of label spaces of one's own: `all`, subsets, and test sets that are coarser or finer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gbw_d2.class_tables import translated_segments
from gbw_d2.engine.evaluation import warnings_of
from gbw_d2.errors import UserError
from gbw_d2.evaluation.evaluators import PanopticEvaluator, SemanticEvaluator
from gbw_d2.evaluation.protocols import chosen_protocols
from gbw_d2.evaluation.report import merge_per_class
from gbw_d2.label_spaces import CITYSCAPES_19, LABEL_SPACES, LabelSpace, SemanticClass, scoring


def space(name: str, *names: str, things: str = "", **more: Any) -> LabelSpace:
    rows = tuple(SemanticClass(n, n in things.split(), (i, i, i)) for i, n in enumerate(names))
    return LabelSpace(name, rows, **more)


def scores(
    network: LabelSpace, test: LabelSpace, truth: np.ndarray, predicted: np.ndarray, asked: Any = ()
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores maps of class ids, 255 = void; every class is one segment of its map."""
    met = scoring(network, test)
    protocols = chosen_protocols(met, asked)
    labels = met.truth[truth]
    semantic = SemanticEvaluator(lambda _: labels, met, protocols)
    segments = as_segments(truth)
    panoptic = PanopticEvaluator(
        lambda _: translated_segments(*segments, met.truth, met.space.is_thing, test.is_thing),
        met,
        protocols,
    )
    logits = torch.nn.functional.one_hot(torch.from_numpy(predicted).long(), network.num_classes)
    found, info = as_segments(predicted)
    output = {"sem_seg": logits.permute(2, 0, 1), "panoptic_seg": (torch.from_numpy(found), info)}
    metrics: dict[str, float] = {}
    for evaluator in (semantic, panoptic):
        evaluator.process([{"file_name": "a.png", "image_id": "a"}], [output])
        metrics |= evaluator.evaluate()
    return metrics, merge_per_class(semantic.per_class, panoptic.per_class)


def as_segments(classes: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
    segments = np.where(classes == 255, 0, classes.astype(np.int32) + 1)
    present = [int(i) for i in np.unique(segments) if i]
    return segments, [{"id": i, "category_id": i - 1, "iscrowd": 0} for i in present]


def test_all_and_subsets_by_hand() -> None:
    mine = space("mine", "road", "car", "зебра", things="car", subsets={"rare": ("зебра", "car")})
    truth = np.array([[0, 0, 0, 0], [1, 1, 2, 2], [255, 255, 255, 255]], np.uint8)
    predicted = np.array([[0, 0, 0, 1], [1, 1, 2, 2], [0, 0, 1, 2]], np.uint8)
    metrics, per_class = scores(mine, mine, truth, predicted)
    # Road 3/4, car 2/3, зебра 2/2.
    assert metrics["mIoU_all"] == pytest.approx(100 * (3 / 4 + 2 / 3 + 1) / 3)
    assert metrics["mIoU_rare"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert metrics["recall_all"] == pytest.approx(100 * (3 / 4 + 1 + 1) / 3)
    assert metrics["PQ_all"] == pytest.approx(100 * (3 / 4 + 2 / 3 + 1) / 3)
    assert metrics["PQ_th_all"] == metrics["PQ_th_rare"] == pytest.approx(100 * 2 / 3)
    assert metrics["PQ_classes_all"] == 3 and metrics["mIoU_classes_rare"] == 2
    assert list(per_class["all"]) == ["road", "car", "зебра"] and set(per_class) == {"all", "rare"}
    only, _ = scores(mine, mine, truth, predicted, ("rare",))
    assert only["mIoU_rare"] == metrics["mIoU_rare"] and "mIoU_all" not in only
    with pytest.raises(UserError, match=r"EVAL\.PROTOCOLS is 16, but 'mine' can be scored by all"):
        scores(mine, mine, truth, predicted, ("16",))


def test_a_coarser_test_set_scores_100_where_all_is_right() -> None:
    # CamVid's 11 of Cityscapes' classes; a network of the 19 sees also what is not there.
    names = ("road", "building", "traffic sign", "rider", "car")
    merge = {"truck": "car", "bus": "car", "bicycle": "rider", "wall": "building"}
    rest = set(CITYSCAPES_19.class_names) - {*names, *merge}
    coarse = space(
        "camvid", *names, things="rider car", aliases=merge | dict.fromkeys(rest, "void")
    )
    truth = np.repeat(np.arange(5, dtype=np.uint8), 8).reshape(5, 8)
    fine = np.array([0, 2, 7, 12, 13], np.uint8)[truth]
    fine[1, :4], fine[4, :2], fine[4, 2:4] = 3, 14, 15  # wall, truck and bus
    metrics, _ = scores(CITYSCAPES_19, coarse, truth, fine)
    # The parts of a stuff class are one segment again; those of a thing are instances.
    assert metrics["mIoU_all"] == 100 and metrics["PQ_st_all"] == 100
    assert metrics["mIoU_classes_all"] == 5
    fine[0, 0] = 10  # sky, which the test set does not have: missed road, and nobody's mistake
    metrics, _ = scores(CITYSCAPES_19, coarse, truth, fine)
    assert metrics["mIoU_all"] == pytest.approx(100 - 100 / 8 / 5)
    assert metrics["precision_all"] == 100


def test_a_coarser_network_on_a_finer_test_set() -> None:
    fine = space("fine", "road", "car", "bus", "wall", things="car bus")
    coarse = space(
        *("mine", "vehicle", "road"),
        things="vehicle",
        aliases={"car": "vehicle", "bus": "vehicle", "wall": "void"},
    )
    truth = np.array([[0, 0, 1, 2], [3, 3, 3, 3]], np.uint8)
    predicted = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], np.uint8)
    metrics, per_class = scores(coarse, fine, truth, predicted)
    assert metrics["mIoU_all"] == 100 and list(per_class["all"]) == ["road", "vehicle"]


def test_published_protocols_stay_and_all_can_be_asked_for() -> None:
    sixteen = LABEL_SPACES.get("cityscapes_16")
    truth = np.array([[0, 13, 14, 14]], np.uint8)
    predicted = np.array([[0, 12, 12, 12]], np.uint8)
    metrics, _ = scores(sixteen, CITYSCAPES_19, truth, predicted)
    assert {k for k in metrics if k.startswith("mIoU_1")} == {
        *("mIoU_16", "mIoU_16_void", "mIoU_13", "mIoU_13_void")
    }
    assert "mIoU_all" not in metrics
    assert metrics["mIoU_16"] == pytest.approx((100 + 100 / 3) / 2)
    assert metrics["mIoU_16_void"] == 100
    asked, _ = scores(sixteen, CITYSCAPES_19, truth, predicted, ("16", "all"))
    assert asked["mIoU_all"] == asked["mIoU_16"] == metrics["mIoU_16"]


def test_a_stray_pixel_in_an_absent_class_is_told() -> None:
    truth = np.repeat(np.arange(11, dtype=np.uint8), 16).reshape(11, 16)
    predicted = truth.copy()
    predicted[0, :5] = np.arange(11, 16)  # one pixel each of five classes that are not there
    names = tuple(f"c{i}" for i in range(16))
    mine = space("mine", *names)
    metrics, per_class = scores(mine, mine, truth, predicted)
    assert metrics["mIoU_all"] == pytest.approx(100 * (10 + 11 / 16) / 16)
    (warning,) = warnings_of("camvid", per_class)
    assert "camvid never show c11, c12, c13, c14, c15" in warning and "protocol all" in warning
    _, clean = scores(mine, mine, truth, truth)
    assert warnings_of("camvid", clean) == []


def test_a_network_without_any_segment_is_told() -> None:
    nothing = {"share": 50.0, "IoU": 0.0, "PQ": 0.0, "TP": 0, "FP": 0, "FN": 3}
    (warning,) = warnings_of("mine", {"all": {"boat": nothing, "sea": nothing}})
    assert "no image of mine has a predicted segment" in warning
    assert warnings_of("mine", {"all": {"boat": nothing, "sea": {**nothing, "FP": 1}}}) == []


@pytest.mark.parametrize("label", [255, 16])
def test_a_test_set_that_is_void_throughout_is_told(label: int) -> None:
    truth = np.full((8, 8), label, np.uint8)
    metrics, per_class = scores(
        LABEL_SPACES.get("cityscapes_16"), CITYSCAPES_19, truth, np.zeros((8, 8), np.uint8), ("16",)
    )
    # Of a class that the protocol lacks (terrain, truck, train), what is predicted there counts.
    expected = np.nan if label == 255 else 0.0
    assert metrics["mIoU_16"] == pytest.approx(expected, nan_ok=True)
    (warning,) = warnings_of("mine", per_class)
    assert "labels of mine show no class that is scored (protocol 16)" in warning
