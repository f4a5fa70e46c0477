"""Post-processing against Detectron2's own, hand-made maps, and sizes that broke it."""

from __future__ import annotations

import pytest
import torch

from gbw_d2 import compat  # noqa: F401
from gbw_d2.modeling.postprocessing import (
    PanopticSettings,
    find_centers,
    instances_of,
    panoptic_from_centers,
)

from detectron2.projects.panoptic_deeplab.post_processing import (
    get_panoptic_segmentation,
)

THINGS = (3, 4)


def random_maps(seed: int, height: int, width: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 5, 5, 7, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    center = torch.rand(height, width, generator=generator) ** 6
    offset = torch.randn(2, height, width, generator=generator) * 4
    return logits, center, offset


@pytest.mark.parametrize("seed", range(5))
def test_equals_detectron2(seed: int) -> None:
    logits, center, offset = random_maps(seed, 40, 56)
    settings = PanopticSettings(center_threshold=0.3, nms_kernel=7, top_k=200, stuff_area=60)
    ours, table = panoptic_from_centers(logits, center, offset, thing_ids=THINGS, settings=settings)
    theirs, _ = get_panoptic_segmentation(
        logits.argmax(0, keepdim=True),
        center[None].clone(),
        offset,
        thing_ids=set(THINGS),
        label_divisor=1000,
        stuff_area=60,
        void_label=-1,
        threshold=0.3,
        nms_kernel=7,
        top_k=200,
    )
    assert sum(s["isthing"] for s in table) > 5
    # The partitions and the classes are the same; only the numbering differs.
    pairs = {(int(a), int(b)) for a, b in zip(ours.flatten(), theirs.flatten(), strict=True)}
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    classes = {s["id"]: s["category_id"] for s in table}
    assert all(b == -1 if a == 0 else b // 1000 == classes[a] for a, b in pairs)


def test_two_touching_cars_by_hand() -> None:
    # Class 3 everywhere; the left half votes for x = 2, the right half for x = 9.
    logits = torch.zeros(5, 6, 12)
    logits[3] = 5
    center = torch.zeros(6, 12)
    center[3, 2], center[3, 9] = 0.9, 0.8
    x = torch.arange(12.0).expand(6, 12)
    offset = torch.stack(
        [3 - torch.arange(6.0)[:, None].expand(6, 12), torch.where(x < 6, 2, 9) - x]
    )
    panoptic, table = panoptic_from_centers(
        logits, center, offset, thing_ids=THINGS, settings=PanopticSettings(stuff_area=1)
    )
    assert (panoptic[:, :6] == 1).all() and (panoptic[:, 6:] == 2).all()
    probability = torch.softmax(logits[:, 0, 0], 0)[3]
    assert [s["area"] for s in table] == [36, 36]
    assert table[0]["score"] == pytest.approx(float(0.9 * probability), rel=1e-5)
    instances = instances_of(panoptic, table)
    assert instances.pred_boxes.tensor.tolist() == [[0, 0, 6, 6], [6, 0, 12, 6]]


@pytest.mark.parametrize("size", [(1, 1), (1, 13), (13, 1), (7, 11), (14, 14)])
def test_maps_below_top_k_pixels(size: tuple[int, int]) -> None:
    logits, center, offset = random_maps(0, *size)
    panoptic, table = panoptic_from_centers(
        logits, center, offset, thing_ids=THINGS, settings=PanopticSettings(stuff_area=1)
    )
    assert panoptic.shape == size
    assert sorted(set(panoptic.flatten().tolist()) - {0}) == [s["id"] for s in table]
    assert all(s["area"] == int((panoptic == s["id"]).sum()) for s in table)


def test_no_center_leaves_things_void_and_keeps_stuff() -> None:
    logits = torch.zeros(5, 4, 4)
    logits[3, :2], logits[0, 2:] = 1, 1
    panoptic, table = panoptic_from_centers(
        logits,
        torch.zeros(4, 4),
        torch.zeros(2, 4, 4),
        thing_ids=THINGS,
        settings=PanopticSettings(stuff_area=1),
    )
    assert (panoptic[:2] == 0).all() and (panoptic[2:] == 1).all()
    assert [s["category_id"] for s in table] == [0]
    instances = instances_of(panoptic, table)
    assert len(instances) == 0 and instances.pred_masks.shape == (0, 4, 4)


def test_small_stuff_is_void() -> None:
    logits = torch.zeros(2, 4, 4)
    logits[1, 0, :3] = 1
    panoptic, table = panoptic_from_centers(
        logits,
        torch.zeros(4, 4),
        torch.zeros(2, 4, 4),
        thing_ids=(),
        settings=PanopticSettings(stuff_area=4),
    )
    assert [s["category_id"] for s in table] == [0]
    assert int((panoptic == 0).sum()) == 3


def test_top_k_keeps_the_highest() -> None:
    center = torch.zeros(20, 20)
    center[2, 2], center[10, 10], center[18, 18] = 0.5, 0.9, 0.7
    centers, scores = find_centers(center, PanopticSettings(top_k=2))
    assert centers.tolist() == [[10, 10], [18, 18]]
    assert scores.tolist() == pytest.approx([0.9, 0.7])


def test_grouping_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = random_maps(1, 30, 30)
    whole = panoptic_from_centers(*maps, thing_ids=THINGS)[0]
    monkeypatch.setattr("gbw_d2.modeling.postprocessing._BLOCK", 50)
    assert torch.equal(whole, panoptic_from_centers(*maps, thing_ids=THINGS)[0])


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="different sizes"):
        panoptic_from_centers(
            torch.zeros(3, 4, 4), torch.zeros(4, 5), torch.zeros(2, 4, 4), thing_ids=()
        )


@pytest.mark.parametrize("wrong", [{"nms_kernel": 4}, {"top_k": 0}])
def test_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        PanopticSettings(**wrong)
