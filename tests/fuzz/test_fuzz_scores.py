"""Post-processing and evaluators on odd sizes, odd numbers and odd ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gbw_d2.cityscapes_classes import TRAIN_IDS_19
from gbw_d2.evaluation.evaluators import PanopticEvaluator, SemanticEvaluator, panoptic_categories
from gbw_d2.evaluation.panoptic_quality import PanopticQuality
from gbw_d2.evaluation.protocols import chosen_protocols
from gbw_d2.label_spaces import CITYSCAPES_19, LABEL_SPACES, scoring
from gbw_d2.modeling.postprocessing import (
    PanopticSettings,
    instances_of,
    panoptic_from_centers,
)
from gbw_d2.visualization import color_panoptic

SIDES = st.sampled_from([1, 2, 3, 5, 7, 13, 31, 37])
SIZES = st.tuples(SIDES, SIDES)
SEEDS = st.integers(0, 2**32 - 1)
SPACES = st.sampled_from(["cityscapes_19", "cityscapes_16", "cityscapes_13"])
SETTINGS = st.builds(
    PanopticSettings,
    center_threshold=st.sampled_from([-1.0, 0.0, 0.1, 0.9, 2.0]),
    nms_kernel=st.sampled_from([1, 3, 7, 41]),
    top_k=st.sampled_from([1, 2, 200, 10**6]),
    stuff_area=st.sampled_from([-1, 0, 1, 2048]),
)
ODD = [0.0, 1.0, -1e30, 1e30, float("inf"), float("-inf"), float("nan")]


def maps(
    size: tuple[int, int], classes: int, seed: int, odd: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(classes, *size, generator=generator) * 3
    center = torch.rand(1, *size, generator=generator)
    offset = torch.randn(2, *size, generator=generator) * 10
    if odd:
        for part in (logits, center, offset):
            values = torch.tensor(ODD)[torch.randint(7, part.shape, generator=generator)]
            part.copy_(torch.where(torch.rand(part.shape, generator=generator) < 0.5, part, values))
    return logits, center, offset


@given(SIZES, SEEDS, SETTINGS, SPACES, st.booleans())
def test_a_panoptic_map_covers_each_pixel_at_most_once(
    size: tuple[int, int], seed: int, settings: PanopticSettings, space_name: str, odd: bool
) -> None:
    space = LABEL_SPACES.get(space_name)
    logits, center, offset = maps(size, space.num_classes, seed, odd)
    segments, table = panoptic_from_centers(
        logits, center, offset, thing_ids=space.thing_ids, settings=settings
    )
    assert segments.shape == size and segments.dtype == torch.int32
    assert [s["id"] for s in table] == [*range(1, len(table) + 1)]
    areas = torch.bincount(segments.flatten(), minlength=len(table) + 1)
    assert [s["area"] for s in table] == areas[1:].tolist()
    assert (areas[1:] > 0).all()
    things = [s for s in table if s["isthing"]]
    stuff = [s for s in table if not s["isthing"]]
    assert all(s["category_id"] in space.thing_ids for s in things)
    assert all(s["category_id"] in space.stuff_ids for s in stuff)
    assert len({s["category_id"] for s in stuff}) == len(stuff)
    assert all(s["area"] >= settings.stuff_area for s in stuff)
    assert len(things) <= settings.top_k
    labels = logits.argmax(dim=0)
    for segment in stuff:
        assert torch.equal(segments == segment["id"], labels == segment["category_id"])
    if not odd:
        assert all(0 <= s["score"] <= 1 + 1e-6 for s in table)
    instances = instances_of(segments, table)
    assert len(instances) == len(things)
    assert instances.pred_masks.flatten(1).sum(dim=1).tolist() == [s["area"] for s in things]
    boxes = instances.pred_boxes.tensor
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
    assert (boxes[:, [2, 3]] <= torch.tensor([size[1], size[0]])).all()
    assert color_panoptic(segments.numpy(), table, space).shape == (*size, 3)


def ground_truth(
    size: tuple[int, int], seed: int, train_ids: tuple[int, ...]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draws segments with large ids, at most one crowd per class; some maps are all void."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 12))
    ids = rng.choice(2**31 - 2, count, replace=False) + 1
    table: list[dict[str, Any]] = []
    crowds: set[int] = set()
    for segment in ids.tolist():
        category = int(rng.choice(train_ids))
        crowd = category >= 11 and category not in crowds and rng.random() < 0.2
        crowds |= {category} if crowd else set()
        table.append({"id": segment, "category_id": category, "iscrowd": int(crowd)})
    segments = rng.choice([0, *ids], size).astype(np.int64)
    return segments, [s for s in table if (segments == s["id"]).any()]


def record() -> dict[str, Any]:
    return {"file_name": "a.png", "image_id": "a"}


@given(SIZES, SEEDS, SPACES)
def test_a_map_scores_100_with_itself(size: tuple[int, int], seed: int, space_name: str) -> None:
    space = LABEL_SPACES.get(space_name)
    train_ids_there = tuple(space.to_family[: space.num_classes].tolist())
    segments, table = ground_truth(size, seed, train_ids_there)
    classes = space.from_family
    predicted = [{**s, "category_id": int(classes[s["category_id"]])} for s in table]
    train_ids = np.full(size, 255, dtype=np.uint8)
    for segment in table:
        train_ids[segments == segment["id"]] = segment["category_id"]
    logits = torch.zeros(space.num_classes, *size)
    known = train_ids != 255
    y, x = np.nonzero(known)
    logits[torch.from_numpy(classes[train_ids[known]].astype(np.int64)), y, x] = 1.0

    met = scoring(space, CITYSCAPES_19)
    protocols = chosen_protocols(met, ())
    panoptic = PanopticEvaluator(lambda _: (segments, table), met, protocols)
    semantic = SemanticEvaluator(lambda _: train_ids, met, protocols)
    output = {"panoptic_seg": (torch.from_numpy(segments), predicted), "sem_seg": logits}
    for evaluator in (panoptic, semantic):
        evaluator.reset()
        evaluator.process([record()], [output])
    scores = {**panoptic.evaluate(), **semantic.evaluate()}
    counted = {s["category_id"] for s in table if not s["iscrowd"]}
    for protocol in protocols:
        name, averaged = protocol.name, {*protocol.ids(CITYSCAPES_19)}
        expected = 100.0 if counted & averaged else None
        for key in ("PQ", "SQ", "RQ"):
            assert same(scores[f"{key}_{name}"], expected), key
        assert scores[f"PQ_classes_{name}"] == len(counted & averaged)
        present = averaged & {*np.unique(train_ids).tolist()}
        for key in ("mIoU", "recall", "precision"):
            assert same(scores[f"{key}_{name}"], 100.0 if present else None), key
        assert scores[f"mIoU_classes_{name}"] == len(present)


def same(value: float, expected: float | None) -> bool:
    return bool(np.isnan(value)) if expected is None else abs(value - expected) < 1e-9


@given(SIZES, SEEDS, SEEDS, st.integers(0, 1))
def test_scores_of_two_maps_stay_in_bounds(
    size: tuple[int, int], seed: int, other: int, share: int
) -> None:
    truth, gt = ground_truth(size, seed, TRAIN_IDS_19)
    guess, table = ground_truth(size, other, TRAIN_IDS_19)
    if share:
        # Half of the rows are right, so that there are matches too.
        guess = guess.copy()
        guess[::2] = truth[::2]
        table = [s for s in {s["id"]: s for s in gt + table}.values() if (guess == s["id"]).any()]
    quality = PanopticQuality(panoptic_categories(CITYSCAPES_19))
    quality.update(guess, table, truth, gt)
    result = quality.compute()
    for row in result["per_class"].values():
        assert 0 <= row["PQ"] <= min(row["SQ"], row["RQ"]) + 1e-9 <= 100 + 1e-6
        crowd_free = row["TP"] + row["FN"]
        assert crowd_free <= len(gt) and row["TP"] + row["FP"] <= len(table)
    found = {s["category_id"] for s in gt if not s["iscrowd"]}
    for category, row in result["per_class"].items():
        listed = sum(s["category_id"] == category and not s["iscrowd"] for s in gt)
        assert row["TP"] + row["FN"] == listed
        assert (listed > 0) == (category in found)
