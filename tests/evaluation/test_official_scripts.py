"""PQ against panopticapi and against Cityscapes' own panoptic script, on maps drawn at random."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import cityscapesscripts.evaluation.evalPanopticSemanticLabeling as cityscapes_panoptic
import hotcoco.panoptic
import numpy as np
import panopticapi.evaluation as panopticapi
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from panopticapi.utils import id2rgb
from PIL import Image

from gbw_d2.cityscapes_classes import CLASSES
from gbw_d2.evaluation import PanopticQuality
from gbw_d2.evaluation import panoptic_quality as ours
from gbw_d2.evaluation.panoptic_files import score_files

# Cityscapes' own protocol: 19 classes under their label ids.
CATEGORIES = [{"id": c.cityscapes_id, "name": c.name, "isthing": int(c.is_thing)} for c in CLASSES]
LABEL_IDS = [c["id"] for c in CATEGORIES]
UNKNOWN = 3  # "out of roi": in the map, in no category
# Below and above two bytes; official files hold three.
SMALL_IDS = st.integers(1, 300)
ANY_IDS = st.one_of(SMALL_IDS, st.integers(65530, 65540), st.integers(2**24 - 300, 2**24 - 1))

Segments = list[dict[str, Any]]
Sample = tuple[np.ndarray, Segments, np.ndarray, Segments]


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Draws (predicted map, its segments, true map, its segments)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Few classes, so that predictions meet ground truth of their class; others are missing.
    classes = draw(st.lists(st.sampled_from(LABEL_IDS), min_size=1, max_size=3, unique=True))
    gt_ids = draw(st.lists(ANY_IDS, min_size=0, max_size=7, unique=True))
    gt = _blocks(rng, gt_ids, draw(st.booleans()))
    truth = [
        {"id": i, "category_id": int(rng.choice(classes)), "iscrowd": int(rng.random() < 0.25)}
        for i in rng.permutation(np.unique(gt[gt > 0])).tolist()
        if rng.random() < 0.9  # the rest is in the map and not in the list
    ]
    if draw(st.integers(0, 9)) == 0:
        return np.zeros_like(gt), [], gt, truth
    # The prediction is the truth under other names, with another class, and noise.
    names = draw(st.lists(ANY_IDS, min_size=len(gt_ids), max_size=len(gt_ids), unique=True))
    renamed = dict(zip([0, *gt_ids], [0, *names], strict=True))
    pred = np.vectorize(renamed.get, otypes=[np.int64])(gt)
    noise = rng.random(gt.shape) < draw(st.sampled_from([0.0, 0.1, 0.4]))
    pred[noise] = rng.choice([0, *names], int(noise.sum()))
    category_of = {renamed[s["id"]]: s["category_id"] for s in truth}
    guess = [
        {
            "id": i,
            "category_id": category_of[i]
            if i in category_of and rng.random() < 0.8
            else int(rng.choice(LABEL_IDS)),
        }
        for i in np.unique(pred[pred > 0]).tolist()
    ]
    return pred, guess, gt, truth


def _blocks(rng: np.random.Generator, ids: list[int], void: bool) -> np.ndarray:
    size = 16
    base = 0 if void or not ids else ids[0]
    out = np.full((size, size), base, dtype=np.int64)
    for i in ids:
        y, x = rng.integers(0, size - 3, 2)
        h, w = rng.integers(2, 10, 2)
        out[y : y + h, x : x + w] = i
    return out


def official(module: Any, images: list[Sample]) -> Any:
    """Runs a script's ``pq_compute_single_core`` on arrays in place of PNG files."""
    arrays: dict[str, np.ndarray] = {}
    pairs = []
    for n, (pred, pred_segments, gt, gt_segments) in enumerate(images):
        arrays[f"pred/{n}"], arrays[f"gt/{n}"] = (id2rgb(m.copy()) for m in (pred, gt))
        areas = [s | {"area": int((gt == s["id"]).sum())} for s in gt_segments]
        entry = {"image_id": n, "file_name": str(n)}
        guess = copy.deepcopy(pred_segments)
        pairs.append((entry | {"segments_info": areas}, entry | {"segments_info": guess}))
    files = mock.Mock(open=arrays.__getitem__)
    categories = {c["id"]: c for c in CATEGORIES}
    with mock.patch.object(module, "Image", files), contextlib.redirect_stdout(io.StringIO()):
        return module.pq_compute_single_core(0, pairs, "gt", "pred", categories)


def score(images: list[Sample]) -> PanopticQuality:
    quality = PanopticQuality(CATEGORIES)
    for image in images:
        quality.update(*image)
    return quality


@pytest.mark.parametrize("module", [panopticapi, cityscapes_panoptic], ids=["coco", "cityscapes"])
@settings(max_examples=80, deadline=None)
@given(st.lists(samples(), min_size=1, max_size=3))
def test_equal_to_the_official_scripts(module: Any, images: list[Sample]) -> None:
    result = score(images).compute()
    stat = official(module, images)
    matches = 0
    for category in LABEL_IDS:
        theirs, row = stat[category], result["per_class"][category]
        assert (row["TP"], row["FP"], row["FN"]) == (theirs.tp, theirs.fp, theirs.fn)
        weight = theirs.tp + theirs.fp / 2 + theirs.fn / 2
        assert row["PQ"] == pytest.approx(100 * theirs.iou / weight if weight else 0, abs=1e-9)
        matches += theirs.tp
    event(f"matches: {min(matches, 3)}")
    if any(row["TP"] + row["FP"] + row["FN"] for row in result["per_class"].values()):
        theirs, _ = stat.pq_average({c["id"]: c for c in CATEGORIES}, isthing=None)
        for key in ("PQ", "SQ", "RQ"):
            assert result[key] == pytest.approx(100 * theirs[key.lower()], abs=1e-9)
        assert result["classes"] == theirs["n"]
    else:
        assert result["PQ"] is None


@settings(max_examples=15, deadline=None)
@given(st.lists(samples(), min_size=1, max_size=3))
def test_equal_to_hotcoco_on_files(images: list[Sample]) -> None:
    # It takes no truth that the list lacks, so that is void here.
    images = [
        (p, ps, np.where(np.isin(gt, [s["id"] for s in gs]), gt, 0), gs) for p, ps, gt, gs in images
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = _write_files(Path(folder), images)
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = hotcoco.panoptic.pq_compute(*files)
        of_files = score_files(Path(files[0]), Path(files[1]), 2)
    np.testing.assert_array_equal(of_files.state, score(images).state)
    result = score(images).compute()
    for category in LABEL_IDS:
        row, other = result["per_class"][category], theirs["per_class"].get(category, {})
        for key in ("TP", "FP", "FN"):
            assert row[key] == other.get(key.lower(), 0)
        for key in ("PQ", "SQ", "RQ"):
            # An absent class has -1 there.
            assert row[key] == pytest.approx(100 * max(other.get(key.lower(), 0), 0), abs=1e-9)
    assert result["classes"] == theirs["All"]["n"]
    if result["classes"]:
        assert result["PQ"] == pytest.approx(100 * theirs["All"]["pq"], abs=1e-9)


def _write_files(folder: Path, images: list[Sample]) -> tuple[str, str, str, str]:
    """Writes ground truth and predictions in COCO's panoptic format; returns JSONs and folders."""
    for at, name in ((2, "gt"), (0, "pred")):
        (folder / name).mkdir()
        rows = []
        for n, image in enumerate(images):
            Image.fromarray(id2rgb(image[at].copy())).save(folder / name / f"{n}.png")
            segments = [
                {"iscrowd": 0, **s, "area": int((image[at] == s["id"]).sum())}
                for s in image[at + 1]
            ]
            entry = {"image_id": n, "file_name": f"{n}.png", "segments_info": segments}
            rows.append(entry)
        size = {"height": 16, "width": 16}
        listed = [{"id": n, "file_name": f"{n}.png", **size} for n in range(len(images))]
        content = {"images": listed, "annotations": rows, "categories": CATEGORIES}
        (folder / f"{name}.json").write_text(json.dumps(content))
    gt, pred = folder / "gt", folder / "pred"
    return f"{gt}.json", f"{pred}.json", str(gt), str(pred)


@settings(max_examples=40, deadline=None)
@given(samples())
def test_every_way_of_counting_is_the_same(image: Sample) -> None:
    # Small ids, few pairs and few pixels take the tables in one block; these do not.
    limits = {"_TABLE_IDS": 1, "_TABLE_PAIRS": 0, "_FEW_PAIRS": 0, "_BLOCK": 50, "_RUNS": 7}
    for others in (limits, {"_FEW_PAIRS": 0}):
        with mock.patch.multiple(ours, **others):
            searched = score([image]).state
        np.testing.assert_array_equal(score([image]).state, searched)
    pred, _, gt, _ = image
    gt_ids, pred_ids = np.unique(gt[gt > 0])[::2], np.unique(pred[pred > 0])
    maps = [ours._as_id_map(each, "drawn") for each in (gt, pred)]
    row, column, counts = ours._count_pairs(maps[0], gt_ids, maps[1], pred_ids)
    for r, c, count in zip(row, column, counts, strict=True):
        of_gt = gt == (gt_ids[r] if r >= 0 else 0)
        if r == ours._UNLISTED:
            of_gt = (gt > 0) & ~np.isin(gt, gt_ids)
        assert count == (of_gt & (pred == (pred_ids[c] if c >= 0 else 0))).sum()
    assert counts.sum() == gt.size


@settings(max_examples=20, deadline=None)
@given(st.lists(samples(), min_size=3, max_size=6), st.randoms(use_true_random=False))
def test_states_add_up_exactly_in_any_order(images: list[Sample], random: Any) -> None:
    alone = [score([image]).state for image in images]
    random.shuffle(alone)
    first, second = PanopticQuality(CATEGORIES), PanopticQuality(CATEGORIES)
    first.merge(sum(alone[:2]))
    second.merge(sum(alone[2:]))
    first.merge(second.state)
    np.testing.assert_array_equal(first.state, score(images).state)


def test_the_whole_cityscapes_script_on_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images: list[Sample] = []
    for _ in range(4):
        gt = _blocks(rng, [26001, 26002, 7000, 65536, 2**24 - 1], False)
        pred = np.roll(gt, 1, axis=1)
        classes = {26001: 26, 26002: 26, 7000: 7, 65536: 24, 2**24 - 1: 23}
        truth, guess = (
            [{"id": i, "category_id": classes[i], "iscrowd": 0} for i in np.unique(m).tolist()]
            for m in (gt, pred)
        )
        images.append((pred, guess, gt, truth))
    for kind, index in (("pred", 0), ("gt", 2)):
        (tmp_path / kind).mkdir()
        annotations = []
        for n, image in enumerate(images):
            Image.fromarray(id2rgb(image[index].copy())).save(tmp_path / kind / f"{n}.png")
            areas = [s | {"area": int((image[index] == s["id"]).sum())} for s in image[index + 1]]
            annotations.append(
                {"image_id": str(n), "file_name": f"{n}.png", "segments_info": areas}
            )
        content = {"annotations": annotations, "categories": CATEGORIES}
        (tmp_path / f"{kind}.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = cityscapes_panoptic.evaluatePanoptic(
            *(str(tmp_path / name) for name in ("gt.json", "gt", "pred.json", "pred", "out.json"))
        )
    result = score(images).compute()
    for name, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for key in ("PQ", "SQ", "RQ"):
            assert result[key + suffix] == pytest.approx(100 * theirs[name][key.lower()], abs=1e-9)
    assert 20 < result["PQ"] < 100
