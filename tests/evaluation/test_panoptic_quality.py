"""PQ: tiny cases by hand, then panopticapi itself as the oracle."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panopticapi.evaluation import PQStat, pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image

from gbw_d2.evaluation import PanopticQuality

ROAD, CAR, PERSON, SKY = 0, 13, 11, 10
CATEGORIES = [
    {"id": ROAD, "isthing": 0},
    {"id": SKY, "isthing": 0},
    {"id": PERSON, "isthing": 1},
    {"id": CAR, "isthing": 1},
]
UNKNOWN = 99


def seg(id_, category, crowd=0):
    return {"id": id_, "category_id": category, "iscrowd": crowd}


def counts(result, category):
    row = result["per_class"][category]
    return row["TP"], row["FP"], row["FN"]


def one_image(pred, pred_segments, gt, gt_segments, categories=CATEGORIES):
    quality = PanopticQuality(categories)
    quality.update(np.array(pred), pred_segments, np.array(gt), gt_segments)
    return quality.compute()


# --- by hand -----------------------------------------------------------------------------------

GT = [[1, 1, 1, 1], [1, 1, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
GT_SEGMENTS = [seg(1, ROAD), seg(2, CAR), seg(3, CAR)]


def test_a_map_with_itself_is_perfect():
    result = one_image(GT, GT_SEGMENTS, GT, GT_SEGMENTS)
    for key in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st"):
        assert result[key] == 100.0
    assert (result["classes"], result["classes_th"], result["classes_st"]) == (2, 1, 1)
    assert counts(result, CAR) == (2, 0, 0)


def test_small_case():
    # road: 8 of 8 pixels hit, 1 taken besides: IoU 8/9. Car 2: 3 of 4 pixels, IoU 3/4.
    # Car 3 is missed and a person stands in its place: FN for car, FP for person.
    pred = [[1, 1, 1, 1], [1, 1, 1, 1], [1, 2, 3, 3], [2, 2, 3, 3]]
    result = one_image(pred, [seg(1, ROAD), seg(2, CAR), seg(3, PERSON)], GT, GT_SEGMENTS)
    assert result["per_class"][ROAD]["PQ"] == pytest.approx(100 * 8 / 9)
    assert result["per_class"][CAR] == pytest.approx(
        {"PQ": 50.0, "SQ": 75.0, "RQ": 100 / 1.5, "TP": 1, "FP": 0, "FN": 1}
    )
    assert counts(result, PERSON) == (0, 1, 0)
    assert result["PQ"] == pytest.approx((100 * 8 / 9 + 50 + 0) / 3)
    assert result["PQ_th"] == pytest.approx(25.0)
    assert result["PQ_st"] == pytest.approx(100 * 8 / 9)
    assert result["classes"] == 3  # sky has neither ground truth nor prediction


@pytest.mark.parametrize(
    ("truck_is_void", "car", "mean"),
    [(False, 1 / 2, 69.44), (True, 3 / 4, 81.94)],
)
def test_the_worked_example_of_the_docs(truck_is_void, car, mean):
    # docs/pq_and_miou.md: the truck (segment 3) is called a second car.
    pred = [[1, 1, 1, 1], [1, 1, 1, 1], [1, 2, 3, 3], [2, 2, 3, 3]]
    gt, segments = np.array(GT), [seg(1, ROAD), seg(2, CAR)]
    if truck_is_void:
        gt[gt == 3] = 0
    result = one_image(pred, [seg(1, ROAD), seg(2, CAR), seg(3, CAR)], gt, segments)
    assert result["per_class"][ROAD]["PQ"] == pytest.approx(100 * 8 / 9)
    assert result["per_class"][CAR]["PQ"] == pytest.approx(100 * car)
    assert result["PQ"] == pytest.approx(mean, abs=0.005)


def test_iou_of_exactly_one_half_is_no_match():
    gt = [[1, 1, 1, 1], [0, 0, 0, 0]]
    pred = [[1, 1, 2, 2], [0, 0, 0, 0]]
    result = one_image(pred, [seg(1, CAR), seg(2, CAR)], gt, [seg(1, CAR)])
    assert counts(result, CAR) == (0, 2, 1)
    assert result["PQ"] == 0.0


def test_void_is_no_part_of_the_union():
    # The prediction covers the car and as many void pixels again: IoU 4/4, not 4/8.
    gt = [[1, 1, 0, 0], [1, 1, 0, 0]]
    pred = [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert one_image(pred, [seg(1, CAR)], gt, [seg(1, CAR)])["PQ"] == 100.0


@pytest.mark.parametrize(("void_pixels", "false_positives"), [(2, 1), (3, 0)])
def test_a_prediction_is_forgiven_on_more_than_half_void(void_pixels, false_positives):
    gt = np.full((1, 4), 1)
    gt[0, :void_pixels] = 0
    result = one_image(np.full((1, 4), 5), [seg(5, CAR)], gt, [seg(1, ROAD)])
    assert counts(result, CAR) == (0, false_positives, 0)


@pytest.mark.parametrize(("crowd_class", "false_positives"), [(CAR, 0), (PERSON, 1)])
def test_only_a_crowd_of_its_own_class_forgives(crowd_class, false_positives):
    gt = np.array([[1, 1, 1, 2]])
    segments = [seg(1, crowd_class, crowd=1), seg(2, ROAD)]
    result = one_image(np.full((1, 4), 5), [seg(5, CAR)], gt, segments)
    assert counts(result, CAR) == (0, false_positives, 0)
    assert counts(result, crowd_class)[2] == 0  # a crowd is never missed


def test_unlisted_ground_truth_is_neither_void_nor_segment():
    # Segment 7 stays in the map but not in the list: what is predicted there is a false positive.
    gt = np.array([[7, 7, 7, 7], [1, 1, 1, 1]])
    pred = np.array([[5, 5, 5, 5], [1, 1, 1, 1]])
    for extra in ([], [seg(7, UNKNOWN)]):
        result = one_image(pred, [seg(5, CAR), seg(1, ROAD)], gt, [seg(1, ROAD), *extra])
        assert counts(result, CAR) == (0, 1, 0)
        assert counts(result, ROAD) == (1, 0, 0)


def test_listed_ground_truth_without_pixels_is_missed():
    result = one_image([[1]], [seg(1, ROAD)], [[1]], [seg(1, ROAD), seg(2, CAR)])
    assert counts(result, CAR) == (0, 0, 1)


def test_ids_beyond_24_bits_do_not_collide():
    big = 2**31 - 1
    gt = np.array([[big, big - 2**24, 1, 2**24]], dtype=np.int64).repeat(3, axis=0)
    segments = [seg(big, CAR), seg(big - 2**24, CAR), seg(1, ROAD), seg(2**24, PERSON)]
    result = one_image(gt, segments, gt, segments)
    assert result["PQ"] == 100.0
    assert counts(result, CAR) == (2, 0, 0)


@pytest.mark.parametrize("only", [0, 1])
def test_one_sided_categories_do_not_divide_by_zero(only):
    categories = [c for c in CATEGORIES if c["isthing"] == only]
    ids = [c["id"] for c in categories]
    result = one_image(
        [[1, 2]], [seg(1, ids[0]), seg(2, ids[1])], [[1, 1]], [seg(1, ids[0])], categories
    )
    other = "_st" if only else "_th"
    assert result["PQ" + other] is None
    assert result["classes" + other] == 0
    assert result["PQ"] == result["PQ_th" if only else "PQ_st"]


def test_no_image_has_no_score():
    result = PanopticQuality(CATEGORIES).compute()
    assert result["PQ"] is None
    assert result["classes"] == 0


def test_a_subset_is_averaged_from_the_same_counts():
    quality = PanopticQuality(CATEGORIES)
    pred = np.array([[1, 1, 1, 2], [1, 3, 3, 3]])
    gt = np.array([[1, 1, 1, 1], [1, 3, 3, 3]])
    quality.update(pred, [seg(1, ROAD), seg(2, CAR), seg(3, SKY)], gt, [seg(1, ROAD), seg(3, SKY)])
    result = quality.compute([ROAD, SKY])
    assert result["PQ"] == pytest.approx((80 + 100) / 2)
    assert set(result["per_class"]) == {ROAD, SKY}
    with pytest.raises(ValueError, match="no category \\[99\\]"):
        quality.compute([UNKNOWN])


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pred", "segments", "message"),
    [
        ([[1, 2]], [seg(1, ROAD)], "in the map but not in segments_info"),
        ([[1, 1]], [seg(1, ROAD), seg(2, CAR)], "in segments_info but not in the map"),
        ([[1, 2]], [seg(1, ROAD), seg(2, UNKNOWN)], "segment 2 has category_id 99"),
        ([[1, 2]], [seg(1, ROAD), seg(2, CAR), seg(2, ROAD)], "listed twice"),
        ([[0, 1]], [seg(0, ROAD), seg(1, CAR)], "id 0, which is void"),
        ([[1, 1, 1]], [seg(1, ROAD)], "shape"),
        ([[1.0, 1.0]], [seg(1, ROAD)], "integers"),
        ([[-1, 1]], [seg(1, ROAD)], "ids from -1"),
    ],
)
def test_a_broken_prediction_is_an_error(pred, segments, message):
    quality = PanopticQuality(CATEGORIES)
    with pytest.raises(ValueError, match=message):
        quality.update(np.array(pred), segments, np.array([[1, 1]]), [seg(1, ROAD)])
    assert not quality.state.any()


def test_categories_must_differ():
    with pytest.raises(ValueError, match="different ids"):
        PanopticQuality([CATEGORIES[0], CATEGORIES[0]])


# --- panopticapi -------------------------------------------------------------------------------

SIZE = 24
# The last id is the largest that three bytes hold.
GT_IDS = [1, 2, 300, 65535, 65536, 70000, 2**20 + 5, 2**24 - 1]
PRED_IDS = [3, 2, 256, 65537, 70000, 2**21, 2**24 - 2, 9]


def random_image(rng):
    """A ground truth of rectangles and a prediction that follows it loosely."""
    gt = np.zeros((SIZE, SIZE), dtype=np.int64)
    for id_ in rng.permutation(GT_IDS):
        y, x = rng.integers(0, SIZE - 6, 2)
        h, w = rng.integers(4, 14, 2)
        gt[y : y + h, x : x + w] = id_
    known = [c["id"] for c in CATEGORIES]
    gt_category = {i: int(rng.choice([*known, UNKNOWN], p=[0.24] * 4 + [0.04])) for i in GT_IDS}
    gt_segments = [
        seg(i, gt_category[i], int(rng.random() < 0.2))
        for i in rng.permutation(np.unique(gt[gt > 0])).tolist()
        if rng.random() > 0.1  # some are in the map and not in the list
    ]
    renamed = dict(zip([0, *GT_IDS], [0, *rng.permutation(PRED_IDS).tolist()], strict=True))
    pred = np.vectorize(renamed.get)(gt)
    noise = rng.random((SIZE, SIZE)) < rng.choice([0.0, 0.1, 0.3])
    pred[noise] = rng.choice([0, *PRED_IDS], noise.sum())
    for _ in range(2):
        y, x = rng.integers(0, SIZE - 6, 2)
        pred[y : y + 6, x : x + 6] = rng.choice([0, *PRED_IDS])
    back = {v: k for k, v in renamed.items()}
    pred_segments = []
    for i in np.unique(pred[pred > 0]).tolist():
        category = gt_category[back[i]]
        if category == UNKNOWN or rng.random() < 0.25:
            category = int(rng.choice(known))
        pred_segments.append(seg(i, category))
    return pred, pred_segments, gt, gt_segments


def panopticapi_scores(images, folder):
    (folder / "gt").mkdir()
    (folder / "pred").mkdir()
    pairs = []
    for n, (pred, pred_segments, gt, gt_segments) in enumerate(images):
        name = f"{n}.png"
        Image.fromarray(id2rgb(gt.copy())).save(folder / "gt" / name)
        Image.fromarray(id2rgb(pred.copy())).save(folder / "pred" / name)
        gt_segments = [s | {"area": int((gt == s["id"]).sum())} for s in gt_segments]
        pairs.append(
            (
                {"image_id": n, "file_name": name, "segments_info": gt_segments},
                {"image_id": n, "file_name": name, "segments_info": copy.deepcopy(pred_segments)},
            )
        )
    categories = {c["id"]: c for c in CATEGORIES}
    stat: PQStat = pq_compute_single_core(
        0, pairs, str(folder / "gt"), str(folder / "pred"), categories
    )
    return stat, categories


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_panopticapi(seed, tmp_path):
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(8)]
    stat, categories = panopticapi_scores(images, tmp_path)
    quality = PanopticQuality(CATEGORIES)
    for image in images:
        quality.update(*image)
    ours = quality.compute()
    for suffix, isthing in (("", None), ("_th", True), ("_st", False)):
        theirs, per_class = stat.pq_average(categories, isthing)
        for key in ("PQ", "SQ", "RQ"):
            assert abs(ours[key + suffix] - 100 * theirs[key.lower()]) < 1e-9
        assert ours["classes" + suffix] == theirs["n"]
        for category, row in per_class.items():
            for key in ("PQ", "SQ", "RQ"):
                assert abs(ours["per_class"][category][key] - 100 * row[key.lower()]) < 1e-9
    for category in categories:
        theirs = stat[category]
        assert counts(ours, category) == (theirs.tp, theirs.fp, theirs.fn)


def test_the_random_images_meet_every_rule():
    # Otherwise the test above could pass without having tried them.
    rng = np.random.default_rng(0)
    images = [random_image(rng) for _ in range(96)]
    total = PanopticQuality(CATEGORIES)
    plain = PanopticQuality(CATEGORIES)
    two_crowds = unlisted = 0
    for pred, pred_segments, gt, gt_segments in images:
        total.update(pred, pred_segments, gt, gt_segments)
        plain.update(pred, pred_segments, gt, [s | {"iscrowd": 0} for s in gt_segments])
        crowds = [s["category_id"] for s in gt_segments if s["iscrowd"]]
        two_crowds += len(crowds) > len(set(crowds))
        unlisted += len(gt_segments) < np.unique(gt[gt > 0]).size
    _, tp, fp, fn = total.state.sum(axis=0)
    assert min(tp, fp, fn) > 100
    assert (total.state[:, 2] != plain.state[:, 2]).any()
    assert two_crowds > 3
    assert unlisted > 3


# --- invariants --------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_ids_are_only_names(seed):
    pred, pred_segments, gt, gt_segments = random_image(np.random.default_rng(seed))
    shift = 2**25  # void stays 0
    renamed = np.where(pred > 0, pred + shift, 0)
    renamed_segments = [s | {"id": s["id"] + shift} for s in reversed(pred_segments)]
    first, second = PanopticQuality(CATEGORIES), PanopticQuality(CATEGORIES)
    first.update(pred, pred_segments, gt, gt_segments)
    second.update(renamed.astype(np.int32), renamed_segments, gt.astype(np.uint32), gt_segments)
    np.testing.assert_allclose(first.state, second.state, rtol=0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_states_add_up(seed):
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(3)]
    whole, merged = PanopticQuality(CATEGORIES), PanopticQuality(CATEGORIES)
    for image in images:
        alone = whole.update(*image)
        part = PanopticQuality(CATEGORIES)
        part.update(*image)
        np.testing.assert_array_equal(alone, part.state)
        assert whole.compute(state=alone) == part.compute()
        merged.merge(part.state)
    np.testing.assert_allclose(whole.state, merged.state, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="categories differ"):
        merged.merge(np.zeros((1, 4)))


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_pq_is_at_most_sq_and_rq(seed):
    quality = PanopticQuality(CATEGORIES)
    quality.update(*random_image(np.random.default_rng(seed)))
    for row in quality.compute()["per_class"].values():
        assert 0 <= row["PQ"] <= min(row["SQ"], row["RQ"]) + 1e-9 <= 100 + 1e-9
        assert row["PQ"] == pytest.approx(row["SQ"] * row["RQ"] / 100)
        assert row["SQ"] == 0 or row["SQ"] > 50
