"""Saved predictions, instance AP and the numbers for comparison with published tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools import mask as mask_utils

from gbw_d2.cityscapes_classes import CLASSES
from gbw_d2.errors import UserError
from gbw_d2.evaluation import PROTOCOLS, PanopticQuality
from gbw_d2.evaluation.evaluators import PanopticEvaluator, SemanticEvaluator, panoptic_categories
from gbw_d2.evaluation.instance_ap import InstanceAP, segment_masks
from gbw_d2.evaluation.prediction_files import PanopticFiles
from gbw_d2.label_spaces import CITYSCAPES_19, LABEL_SPACES, scoring

from detectron2.structures import Instances
from detectron2.utils import comm

ROAD, PERSON, CAR, TRUCK = 0, 11, 13, 14
SPACE = LABEL_SPACES.get("cityscapes_16")
MET = scoring(SPACE, CITYSCAPES_19)
GT = np.array([[1, 1, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3], [0, 0, 0, 0]], np.int32)
GT_INFO = [
    {"id": 1, "category_id": ROAD, "iscrowd": 0},
    {"id": 2, "category_id": CAR, "iscrowd": 0},
    {"id": 3, "category_id": CAR, "iscrowd": 0},
]


def class_id(train_id: int) -> int:
    return int(SPACE.from_family[train_id])


def output(score: float = 0.5) -> dict[str, Any]:
    """Road and first car are right; the second car is void."""
    seg = np.where(GT == 3, 0, GT)
    seg[seg == 2] = 70000
    info = [
        {"id": 1, "category_id": class_id(ROAD), "isthing": False, "score": 0.25},
        {"id": 70000, "category_id": class_id(CAR), "isthing": True, "score": score},
    ]
    return {"panoptic_seg": (torch.from_numpy(seg), info)}


def record(name: str = "a") -> dict[str, Any]:
    return {"file_name": f"{name}.png", "image_id": name}


def make(*protocols: str, **kwargs: Any) -> PanopticEvaluator:
    scores = [PROTOCOLS.get(name) for name in protocols]
    return PanopticEvaluator(lambda _: (GT, GT_INFO), MET, scores, **kwargs)


# --- saved predictions -------------------------------------------------------------------------


def test_predictions_are_written_in_coco_format(tmp_path: Path) -> None:
    evaluator = make("16", save_predictions=tmp_path / "out")
    evaluator.process([record("b"), record("a")], [output(), output()])
    assert not (tmp_path / "out/panoptic.json").exists()
    metrics = evaluator.evaluate()
    content = json.loads((tmp_path / "out/panoptic.json").read_text())
    assert [row["image_id"] for row in content["annotations"]] == ["a", "b"]
    assert [c["id"] for c in content["categories"]] == [c.cityscapes_id for c in CLASSES]
    row = content["annotations"][0]
    assert row["segments_info"] == [
        {"id": 1, "category_id": 7, "area": 4, "iscrowd": 0, "score": 0.25},
        {"id": 70000, "category_id": 26, "area": 4, "iscrowd": 0, "score": 0.5},
    ]
    read = rgb2id(np.array(Image.open(tmp_path / "out/panoptic" / row["file_name"])))
    np.testing.assert_array_equal(read, output()["panoptic_seg"][0].numpy())
    # What was written scores what was reported.
    again = PanopticQuality(
        [c | {"id": CLASSES[c["id"]].cityscapes_id} for c in panoptic_categories(CITYSCAPES_19)]
    )
    truth = [s | {"category_id": CLASSES[s["category_id"]].cityscapes_id} for s in GT_INFO]
    again.update(read, row["segments_info"], GT, truth)
    assert again.compute()["PQ"] == pytest.approx(metrics["PQ_16"])


def test_nothing_is_written_by_default_and_no_draft_stays(tmp_path: Path) -> None:
    evaluator = make("16", output_dir=tmp_path)
    evaluator.process([record()], [output()])
    evaluator.evaluate()
    assert [p.name for p in tmp_path.iterdir()] == ["panoptic_per_image.csv"]
    files = PanopticFiles(tmp_path / "new", CITYSCAPES_19)
    files.add("x", GT, GT_INFO)
    assert sorted(p.name for p in (tmp_path / "new").rglob("*")) == ["panoptic", "x.png"]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_png_holds_three_bytes(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("png")
    segments = np.random.default_rng(seed).integers(0, 2**24, (5, 7))
    PanopticFiles(folder, CITYSCAPES_19).add("x", segments, [])
    blue_first = cv2.imread(str(folder / "panoptic/x.png")).astype(np.int64)
    np.testing.assert_array_equal(blue_first @ [65536, 256, 1], segments)


def test_what_cannot_be_saved_is_an_error(tmp_path: Path) -> None:
    files = PanopticFiles(tmp_path, CITYSCAPES_19)
    with pytest.raises(ValueError, match="16777216 does not fit"):
        files.add("a", np.array([[2**24]]), [])
    for name in ("a/b", ""):
        with pytest.raises(UserError, match="cannot be a file's name"):
            files.add(name, GT, [])


# --- instance AP -------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_masks_are_pycocotools(seed: int, height: int, width: int) -> None:
    segments = np.random.default_rng(seed).choice([0, 3, 70000, 2**30], (height, width))
    ids = [70000, 2**30, 5]
    for i, mask in zip(ids, segment_masks(segments, ids), strict=True):
        assert mask == mask_utils.encode(np.asfortranarray(segments == i, dtype=np.uint8))


def test_ap_by_hand() -> None:
    # One of two cars is found, with IoU 1: precision 1 up to recall 0.5, which is 51 of COCO's 101
    # recall points.
    evaluator = make("16", "16_void", instance_ap=True)
    evaluator.process([record()], [output()])
    metrics = evaluator.evaluate()
    assert metrics["AP_16"] == metrics["AP50_16"] == pytest.approx(100 * 51 / 101)
    assert metrics["AP_classes_16"] == 1
    assert "AP_16_void" not in metrics
    assert evaluator.per_class["16"]["car"]["AP"] == pytest.approx(100 * 51 / 101)
    assert evaluator.per_class["16"]["person"]["AP"] is None
    assert "AP" not in evaluator.per_class["16"]["road"]


def test_a_better_scored_mistake_costs_precision() -> None:
    ap = InstanceAP([CAR])
    good, wrong = segment_masks(GT, [2, 1])
    ap.update("a", [(good, CAR, 0.5), (wrong, CAR, 0.9)], GT, GT_INFO)
    # Precision at the first car is 1/2, and there is no second one.
    assert ap.compute()[CAR]["AP"] == pytest.approx(50 * 51 / 101)
    crowd = [GT_INFO[1] | {"iscrowd": 1}, GT_INFO[2]]
    ap.images.clear()
    ap.update("a", [(good, CAR, 0.9), (segment_masks(GT, [3])[0], CAR, 0.5)], GT, crowd)
    assert ap.compute()[CAR]["AP"] == pytest.approx(100)
    ap.images.clear()
    ap.update("a", [], GT, GT_INFO)
    assert ap.compute()[CAR] == {"AP": 0, "AP50": 0}


def test_instances_of_a_detector_are_preferred() -> None:
    instances = Instances((4, 4))
    instances.pred_masks = torch.from_numpy(np.stack([GT == 2, GT == 3]))
    instances.pred_classes = torch.full((2,), class_id(CAR))
    instances.scores = torch.tensor([0.9, 0.8])
    evaluator = make("16", instance_ap=True)
    evaluator.process([record()], [output() | {"instances": instances}])
    assert evaluator.evaluate()["AP_16"] == pytest.approx(100)
    bare = output()
    del bare["panoptic_seg"][1][1]["score"]
    with pytest.raises(ValueError, match="needs a 'score'"):
        evaluator.process([record()], [bare])


# --- several processes -------------------------------------------------------------------------


def test_processes_merge_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    outputs = []
    for _ in range(7):
        seg, info = output(float(rng.random()))["panoptic_seg"]
        seg[1:3] = torch.from_numpy(rng.permuted(seg[1:3].numpy(), axis=1))
        outputs.append({"panoptic_seg": (seg, info)})
    names = [record(str(n)) for n in range(7)]

    def run(folder: str, shares: list[slice]) -> tuple[dict[str, float], str]:
        folder = tmp_path / folder
        ranks = [make("16", save_predictions=folder, instance_ap=True) for _ in shares]
        for rank, share in zip(ranks, shares, strict=True):
            rank.process(names[share], outputs[share])
        sent = [(rank._states(), rank.per_image) for rank in ranks]
        monkeypatch.setattr(comm, "gather", lambda _: sent)
        return dict(ranks[0].evaluate()), (folder / "panoptic.json").read_text()

    one = run("one", [slice(None)])
    assert one == run("three", [slice(0, None, 3), slice(1, None, 3), slice(2, None, 3)])
    assert 0 < one[0]["PQ_16"] < 100 and 0 < one[0]["AP_16"] < 100


# --- comparison with published tables ----------------------------------------------------------


def test_edaps_counts_void_as_road_and_rescales() -> None:
    evaluator = make("16", "16_edaps_compat")
    evaluator.process([record()], [output()])
    metrics = evaluator.evaluate()
    # Road 1/1, car 1 / (1 + 1/2): the second car is missed.
    assert metrics["PQ_16"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    # Now the road has 4 + 8 void pixels, 4 of them on ground truth void:
    # IoU 4 / (4 + 4) is no match.
    assert metrics["PQ_16_edaps_compat"] == pytest.approx(100 * (0 + 2 / 3) / 2 * 19 / 16)
    assert evaluator.per_class["16_edaps_compat"]["road"]["FP"] == 1


@pytest.mark.parametrize(("void", "false_roads"), [(0, 1), (1, 0)])
def test_void_without_a_road_is_a_road(void: int, false_roads: int) -> None:
    evaluator = make("16", "16_edaps_compat")
    seg = np.where(GT == 2, 2, void)
    info = [{"id": 2, "category_id": class_id(CAR)}]
    if void:
        info.append({"id": 1, "category_id": class_id(PERSON)})
    evaluator.process([record()], [{"panoptic_seg": (torch.from_numpy(seg), info)}])
    evaluator.evaluate()
    assert evaluator.per_class["16_edaps_compat"]["road"]["FP"] == false_roads
    assert evaluator.per_class["16"]["road"]["FP"] == 0


def test_miou_is_rescaled_over_19_classes() -> None:
    gt = np.array([[ROAD, CAR, TRUCK, 255]], np.uint8)
    logits = torch.zeros(16, 1, 4)
    logits[class_id(ROAD), 0, 0] = logits[class_id(CAR), 0, 1:] = 1.0
    protocols = [PROTOCOLS.get(name) for name in ("16", "16_edaps_compat")]
    evaluator = SemanticEvaluator(lambda _: gt, MET, protocols)
    evaluator.process([record()], [{"sem_seg": logits}])
    metrics = evaluator.evaluate()
    assert metrics["mIoU_16"] == pytest.approx(75)
    assert metrics["mIoU_16_edaps_compat"] == pytest.approx((100 + 50 + 0) / 3 * 19 / 16)


def test_compatibility_never_leads() -> None:
    with pytest.raises(UserError, match="name another one before it"):
        make("16_edaps_compat", "16")
