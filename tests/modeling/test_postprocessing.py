"""Post-processing against Detectron2's own, hand-made maps, and sizes that broke it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gbw_d2 import compat  # noqa: F401
from gbw_d2.modeling.postprocessing import (
    PanopticSettings,
    find_centers,
    group_pixels,
    instances_of,
    panoptic_from_centers,
)

from detectron2.projects.panoptic_deeplab.post_processing import (
    find_instance_center,
    get_panoptic_segmentation,
)

THINGS = (3, 4)


Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def random_maps(seed: int, height: int, width: int) -> Maps:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 5, 5, 7, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    center = torch.rand(height, width, generator=generator) ** 6
    offset = torch.randn(2, height, width, generator=generator) * 4
    return logits, center, offset


def tied_maps(seed: int, height: int, width: int) -> Maps:
    """Offsets of whole pixels, a heat map of few values and equal logits: ties everywhere."""
    logits, center, offset = random_maps(seed, height, width)
    return logits.round(), (center * 4).round() / 4, offset.round()


def trained_maps(seed: int, height: int, width: int) -> Maps:
    """What a trained network gives: blobs at the centres, offsets to the nearest and noise."""
    logits, _, noise = random_maps(seed, height, width)
    generator = torch.Generator().manual_seed(seed)
    points = (torch.rand(12, 2, generator=generator) * torch.tensor([height, width])).long()
    axes = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack(axes, dim=-1)
    away = (points[:, None, None] - grid).float()
    squared = away.square().sum(dim=-1)
    center = (-squared / 32).exp().amax(dim=0)
    nearest = squared.argmin(dim=0)
    offset = away.gather(0, nearest[None, ..., None].expand(1, -1, -1, 2))[0].permute(2, 0, 1)
    return logits, center, offset + noise / 8


def far_maps(seed: int, height: int, width: int) -> Maps:
    """Votes far outside of the picture, and some that are no numbers."""
    logits, center, offset = random_maps(seed, height, width)
    offset = offset * 40
    offset[:, ::7, ::5], offset[:, ::5, ::11] = torch.nan, torch.inf
    return logits, center, offset


def as_detectron2(panoptic: torch.Tensor, table: list[dict[str, Any]]) -> torch.Tensor:
    """Numbers the segments as Detectron2 does: class x 1000 + count within the class, void -1."""
    seen: dict[int, int] = {}
    names = [-1]
    for segment in table:
        kind = segment["category_id"]
        seen[kind] = seen.get(kind, 0) + segment["isthing"]
        names.append(kind * 1000 + seen[kind])
    return torch.tensor(names)[panoptic.long()]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("top_k", [3, 200])
@pytest.mark.parametrize("make", [random_maps, tied_maps, trained_maps, far_maps])
def test_equals_detectron2(make: Callable[[int, int, int], Maps], top_k: int, seed: int) -> None:
    logits, center, offset = make(seed, 40 + 13 * seed, 56 + seed)
    settings = PanopticSettings(center_threshold=0.3, nms_kernel=7, top_k=top_k, stuff_area=60)
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
        top_k=top_k,
    )
    assert top_k < 200 or sum(s["isthing"] for s in table) > 5
    assert torch.equal(as_detectron2(ours, table), theirs[0])


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_mean_probabilities(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, center, offset = random_maps(seed, 40, 56)
    monkeypatch.setattr("gbw_d2.modeling.postprocessing._BLOCK", 64)
    ours, table = panoptic_from_centers(logits, center, offset, thing_ids=THINGS)
    probability = torch.softmax(logits.double(), dim=0)
    _, heights = find_centers(center, PanopticSettings())
    for segment in table:
        mean = probability[segment["category_id"]][ours == segment["id"]].mean().item()
        if segment["isthing"]:
            assert any(
                segment["score"] == pytest.approx(mean * h, rel=1e-4) for h in heights.tolist()
            )
        else:
            assert segment["score"] == pytest.approx(mean, rel=1e-4)


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


def test_top_k_is_detectron2s() -> None:
    # Of as many peaks or more, those strictly above the last of the first top_k.
    center = torch.zeros(20, 20)
    center[2, 2], center[10, 10], center[18, 18] = 0.5, 0.9, 0.7
    for top_k, kept in ((2, [[10, 10]]), (3, [[10, 10], [18, 18]]), (4, None)):
        centers, scores = find_centers(center, PanopticSettings(top_k=top_k))
        theirs = find_instance_center(center[None].clone(), 0.1, 7, top_k)
        assert centers.tolist() == theirs.tolist() == (kept or [[2, 2], [10, 10], [18, 18]])
        assert scores.tolist() == [center[y, x] for y, x in centers]


def test_grouping_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = random_maps(1, 30, 30)
    whole = panoptic_from_centers(*maps, thing_ids=THINGS)[0]
    monkeypatch.setattr("gbw_d2.modeling.postprocessing._BLOCK", 50)
    assert torch.equal(whole, panoptic_from_centers(*maps, thing_ids=THINGS)[0])


@pytest.mark.parametrize("spread", [1, 5, 60])
def test_nearest_of_many_centers_in_one_place(spread: int) -> None:
    # Then every tile has many candidates, and each of their numbers is tried.
    generator = torch.Generator().manual_seed(spread)
    centers = torch.unique(torch.randint(spread, (64, 2), generator=generator) + 20, dim=0)
    offset = torch.randn(2, 100, 110, generator=generator)
    pixels = torch.randperm(100 * 110, generator=generator)[:5000]
    votes = torch.stack([pixels // 110, pixels % 110], dim=1) + offset.flatten(1)[:, pixels].T
    expected = torch.norm(centers[:, None] - votes[None], dim=-1).argmin(dim=0)
    assert torch.equal(group_pixels(centers, offset, pixels), expected)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="different sizes"):
        panoptic_from_centers(
            torch.zeros(3, 4, 4), torch.zeros(4, 5), torch.zeros(2, 4, 4), thing_ids=()
        )


@pytest.mark.parametrize("wrong", [{"nms_kernel": 4}, {"top_k": 0}])
def test_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        PanopticSettings(**wrong)
