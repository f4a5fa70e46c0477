"""mIoU, recall, precision: by hand, then Cityscapes' own script as the oracle."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as cityscapes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gbw_d2.cityscapes_classes import CLASSES
from gbw_d2.evaluation import PROTOCOLS, ConfusionMatrix, Protocol, protocols_of
from gbw_d2.evaluation.protocols import NOT_IN_SYNTHIA, default_protocols
from gbw_d2.label_spaces import CITYSCAPES_19, LABEL_SPACES, scoring

ROAD, SIDEWALK, WALL, CAR, TRUCK, BUS = 0, 1, 3, 13, 14, 15


def scored(pred, gt, protocol="19"):
    matrix = ConfusionMatrix(CITYSCAPES_19)
    matrix.update(np.array(pred, dtype=np.uint8), np.array(gt, dtype=np.uint8))
    return matrix.compute(PROTOCOLS.get(protocol))


# --- the protocol table ------------------------------------------------------------------------


def test_the_protocol_table():
    assert PROTOCOLS.names() == ["13", "13_void", "16", "16_edaps_compat", "16_void", "19"]
    assert [n for n in PROTOCOLS if PROTOCOLS.get(n).is_compatibility] == ["16_edaps_compat"]
    assert NOT_IN_SYNTHIA == ("terrain", "truck", "train")
    for name in defaults("cityscapes_19"):
        protocol = PROTOCOLS.get(name)
        assert len(protocol.classes) == int(name.removesuffix("_void"))
        assert protocol.void_classes == (NOT_IN_SYNTHIA if name.endswith("_void") else ())
    left_out = set(PROTOCOLS.get("16").classes) - set(PROTOCOLS.get("13").classes)
    assert sorted(left_out) == ["fence", "pole", "wall"]


def defaults(name):
    met = scoring(LABEL_SPACES.get(name), CITYSCAPES_19)
    return default_protocols(met, protocols_of(met))


def test_protocols_of_a_label_space():
    assert defaults("cityscapes_19") == ("19", "16", "16_void", "13", "13_void")
    assert defaults("cityscapes_16") == ("16", "16_void", "13", "13_void")
    assert defaults("cityscapes_13") == ("13", "13_void")


# --- by hand -----------------------------------------------------------------------------------


def test_small_case():
    # road: 3 of 4 hit, 1 false: IoU 3/5. car: 2 of 4 hit (one is "no class"), 1 false: IoU 2/5.
    # The pixel with ground truth 255 counts nowhere.
    gt = [[0, 0, 0, 0], [13, 13, 13, 13], [255, 255, 255, 255]]
    pred = [[0, 0, 0, 13], [13, 13, 0, 255], [0, 13, 5, 255]]
    result = scored(pred, gt)
    road, car = result["per_class"][ROAD], result["per_class"][CAR]
    assert road == pytest.approx({"IoU": 60.0, "recall": 75.0, "precision": 75.0, "share": 50.0})
    assert car == pytest.approx({"IoU": 40.0, "recall": 50.0, "precision": 200 / 3, "share": 50.0})
    assert result["mIoU"] == pytest.approx(50.0)
    assert result["recall"] == pytest.approx(62.5)
    assert result["classes"] == 2
    assert result["per_class"][BUS] == {
        "IoU": None,
        "recall": None,
        "precision": None,
        "share": 0.0,
    }


def test_a_class_with_predictions_only_is_averaged_and_one_never_predicted_has_precision_0():
    # bus: predicted, never there. car: there, never predicted. sidewalk and the rest: neither.
    result = scored([[0, 15]], [[0, 13]])
    assert result["per_class"][BUS]["IoU"] == 0.0
    assert result["per_class"][BUS]["recall"] is None
    assert result["per_class"][CAR] == {"IoU": 0.0, "recall": 0.0, "precision": 0.0, "share": 50.0}
    assert result["classes"] == 3
    assert result["mIoU"] == pytest.approx(100 / 3)
    assert result["recall"] == pytest.approx(50.0)
    assert result["precision"] == pytest.approx(100 / 3)


def test_an_empty_test_set_has_no_score():
    result = scored([[3, 4]], [[255, 255]], "16")
    assert (result["mIoU"], result["recall"], result["precision"]) == (None, None, None)
    assert result["classes"] == 0


def test_protocols_differ_on_a_truck():
    # The truck's two pixels are called car by a network that does not know trucks.
    gt = [[0, 0, 13, 13, 14, 14]]
    pred = [[0, 0, 13, 13, 13, 13]]
    assert scored(pred, gt, "19")["mIoU"] == pytest.approx((100 + 50 + 0) / 3)
    assert scored(pred, gt, "19")["classes"] == 3
    assert scored(pred, gt, "16")["mIoU"] == pytest.approx((100 + 50) / 2)
    assert scored(pred, gt, "16_void")["mIoU"] == pytest.approx(100.0)
    assert scored(pred, gt, "16")["per_class"][CAR]["precision"] == pytest.approx(50.0)
    assert scored(pred, gt, "16_void")["per_class"][CAR]["share"] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("protocol", "mean", "classes"), [("19", 42.13, 3), ("16", 63.19, 2), ("16_void", 81.94, 2)]
)
def test_the_worked_example_of_the_docs(protocol, mean, classes):
    gt = [[0, 0, 0, 0], [0, 0, 0, 0], [13, 13, 14, 14], [13, 13, 14, 14]]
    pred = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 13, 13, 13], [13, 13, 13, 13]]
    result = scored(pred, gt, protocol)
    assert result["mIoU"] == pytest.approx(mean, abs=0.005)
    assert result["classes"] == classes


def test_thirteen_classes_are_a_subset_of_the_same_scores():
    # Ground truth of wall stays in 13_void too: the road predicted there is wrong.
    gt, pred = [[0, 0, 3, 14]], [[0, 0, 0, 0]]
    assert scored(pred, gt, "13")["mIoU"] == pytest.approx(50.0)
    assert scored(pred, gt, "13_void")["mIoU"] == pytest.approx(200 / 3)
    assert scored(pred, gt, "16")["mIoU"] == pytest.approx(25.0)
    assert scored(pred, gt, "13")["classes"] == 1


def test_nineteen_sixteenths_is_not_the_mean_over_sixteen():
    # All 19 classes perfect: 19/16 of the mean would be 118.75.
    everything = np.arange(19, dtype=np.uint8)[None]
    perfect = scored(everything, everything, "19")["mIoU"]
    assert perfect * 19 / 16 == pytest.approx(118.75)
    assert scored(everything, everything, "16")["mIoU"] == 100.0
    # Two of the 19 seen, both of the 16: 19/16 is wrong there too.
    assert scored([[0, 13]], [[0, 13]], "19")["mIoU"] == 100.0
    assert scored([[0, 13]], [[0, 13]], "16")["classes"] == 2


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pred", "gt", "message"),
    [
        (np.zeros((1, 2), np.uint8), np.zeros((2, 1), np.uint8), r"\(1, 2\).*\(2, 1\)"),
        (np.zeros((1, 1), np.uint8), np.full((1, 1), 26, np.uint8), r"labels \[26\].*raw label"),
        (np.zeros((1, 1), np.uint8), np.full((1, 1), -1), r"labels \[-1\]"),
        (np.zeros((1, 1)), np.zeros((1, 1), np.uint8), "prediction must hold integer"),
        (np.zeros((1, 1), np.uint8), np.zeros((1, 1)), "ground truth must hold integer"),
    ],
)
def test_broken_input_is_an_error(pred, gt, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(CITYSCAPES_19).update(pred, gt)


def test_a_protocol_beyond_the_classes_is_an_error():
    with pytest.raises(ValueError, match="protocol mine has sofa, label space"):
        ConfusionMatrix(CITYSCAPES_19).compute(Protocol("mine", ("road", "sofa")))


# --- Cityscapes' script ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_cityscapesscripts(seed, tmp_path):
    rng = np.random.default_rng(seed)
    to_raw = np.zeros(256, dtype=np.uint8)  # 0 is "unlabeled", which the script ignores
    to_raw[[c.train_id for c in CLASSES]] = [c.cityscapes_id for c in CLASSES]
    args = SimpleNamespace(evalLabels=[], evalInstLevelScore=False, evalPixelAccuracy=False)
    theirs = cityscapes.generateMatrix(args)
    ours = ConfusionMatrix(CITYSCAPES_19)
    for n in range(3):
        # Classes 17 and 18 occur nowhere; 16 is predicted only.
        gt = rng.choice([*range(16), 255], (20, 30)).astype(np.uint8)
        other = rng.choice([*range(17), 255], gt.shape)
        pred = np.where(rng.random(gt.shape) < 0.6, gt, other).astype(np.uint8)
        paths = [str(tmp_path / f"{kind}{n}.png") for kind in ("pred", "gt")]
        Image.fromarray(to_raw[pred]).save(paths[0])
        Image.fromarray(to_raw[gt]).save(paths[1])
        cityscapes.evaluatePair(*paths, theirs, {}, {}, args)
        ours.update(pred, gt)
    result = ours.compute(PROTOCOLS.get("19"))
    scores = {
        c.train_id: cityscapes.getIouScoreForLabel(c.cityscapes_id, theirs, args) for c in CLASSES
    }
    for train_id, iou in scores.items():
        expected = None if math.isnan(iou) else pytest.approx(100 * iou, abs=1e-9)
        assert result["per_class"][train_id]["IoU"] == expected
    mean = cityscapes.getScoreAverage(scores, args)
    assert result["mIoU"] == pytest.approx(100 * mean, abs=1e-9)
    assert result["classes"] == 17


# --- invariants --------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["19", "16", "16_void", "13", "13_void"]))
def test_scores_are_bounded_and_states_add_up(seed, name):
    rng = np.random.default_rng(seed)
    protocol = PROTOCOLS.get(name)
    whole, merged = ConfusionMatrix(CITYSCAPES_19), ConfusionMatrix(CITYSCAPES_19)
    for _ in range(2):
        gt = rng.choice([*range(19), 255], (6, 7)).astype(np.uint8)
        pred = np.where(
            rng.random(gt.shape) < 0.5, gt, rng.permutation(gt.ravel())[:42].reshape(6, 7)
        )
        image = whole.update(pred, gt)
        alone = ConfusionMatrix(CITYSCAPES_19)
        alone.update(pred, gt)
        assert whole.compute(protocol, image) == alone.compute(protocol)
        merged.merge(alone.state)
    np.testing.assert_array_equal(whole.state, merged.state)
    for row in whole.compute(protocol)["per_class"].values():
        if row["IoU"] is not None:
            assert 0 <= row["IoU"] <= min(row["precision"], row["recall"] or 0.0) + 1e-9
    with pytest.raises(ValueError, match="cannot merge"):
        merged.merge(np.zeros((2, 3)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_forgiving_never_lowers_a_score(seed):
    rng = np.random.default_rng(seed)
    matrix = ConfusionMatrix(CITYSCAPES_19)
    matrix.update(rng.integers(0, 19, (8, 8)), rng.integers(0, 19, (8, 8)))
    strict = matrix.compute(PROTOCOLS.get("16"))["per_class"]
    forgiving = matrix.compute(PROTOCOLS.get("16_void"))["per_class"]
    for train_id, row in forgiving.items():
        if row["IoU"] is not None:
            assert row["IoU"] >= strict[train_id]["IoU"]
