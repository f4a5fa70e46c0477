"""Centre and offset targets: by hand, against Detectron2's generator, and under crop and flip."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gbw_d2 import compat
from gbw_d2.modeling.targets.centers import (
    CENTER,
    CENTER_WEIGHTS,
    INSTANCE_CLASS,
    OFFSET,
    OFFSET_WEIGHTS,
    center_and_offset_targets,
    taught_center_targets,
)
from gbw_d2.ops.segments import segment_attributes

assert compat  # Detectron2 needs it first
from detectron2.projects.panoptic_deeplab.target_generator import (  # noqa: E402
    PanopticDeepLabTargetGenerator,
)

THINGS = (3, 4)


def _segment(number: int, category: int, iscrowd: int = 0) -> dict[str, int]:
    return {"id": number, "category_id": category, "iscrowd": iscrowd}


def _random_scene(seed: int, crowds: bool) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Blocks of random segments; some ids are not in the map, some map ids are not listed."""
    rng = np.random.default_rng(seed)
    segment_map = rng.integers(0, 40, (7, 9)).repeat(9, axis=0).repeat(8, axis=1).astype(np.int32)
    info = [
        _segment(i, int(rng.integers(0, 5)), int(crowds and rng.random() < 0.4))
        for i in range(1, 38)
    ]
    for segment in info:
        segment["iscrowd"] *= segment["category_id"] in THINGS
    return segment_map * 700, [{**s, "id": s["id"] * 700} for s in info]


def _reference(
    segment_map: np.ndarray, info: list[dict[str, int]], sigma: int
) -> dict[str, np.ndarray]:
    generator = PanopticDeepLabTargetGenerator(
        ignore_label=255, thing_ids=THINGS, sigma=sigma, ignore_stuff_in_offset=True
    )
    found = generator(segment_map, info)
    return {
        key: np.asarray(found[key]).reshape(*([2] if key == OFFSET else []), *segment_map.shape)
        for key in (CENTER, CENTER_WEIGHTS, OFFSET, OFFSET_WEIGHTS)
    }


def test_two_instances_by_hand() -> None:
    segment_map = np.array([[1, 1, 1, 7, 7], [1, 1, 1, 7, 7], [0, 9, 5, 5, 5]])
    info = [_segment(1, 3), _segment(5, 0), _segment(7, 4, iscrowd=1), _segment(9, 255)]
    found = center_and_offset_targets(segment_map, info, THINGS, sigma=1.0)
    # The centre of segment 1 is (0.5, 1), drawn at row rint(0.5) = 0.
    near, far = np.exp(-0.5), np.exp(-1.0)
    np.testing.assert_allclose(found[CENTER][:2, :3], [[near, 1, near], [far, near, far]])
    np.testing.assert_allclose(found[OFFSET][0, :2, :3], [[0.5] * 3, [-0.5] * 3])
    np.testing.assert_allclose(found[OFFSET][1, :2, :3], [[1, 0, -1]] * 2)
    assert (found[OFFSET][:, :, 3:] == 0).all()
    # Crowd, void and a class outside the label space do not count; stuff counts as background.
    weights = [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]
    np.testing.assert_array_equal(found[CENTER_WEIGHTS], weights)
    on_instance = [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0] * 5]
    np.testing.assert_array_equal(found[OFFSET_WEIGHTS], on_instance)
    np.testing.assert_array_equal(found[INSTANCE_CLASS], np.where(on_instance, 3, 255))
    assert found[INSTANCE_CLASS].dtype == np.int64
    assert found[CENTER].dtype == found[OFFSET].dtype == np.float32


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sigma", [2, 8])
def test_equal_to_detectron2_without_crowds(seed: int, sigma: int) -> None:
    segment_map, info = _random_scene(seed, crowds=False)
    found = center_and_offset_targets(segment_map, info, THINGS, sigma)
    for key, expected in _reference(segment_map, info, sigma).items():
        np.testing.assert_allclose(found[key], expected, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("seed", range(5))
def test_crowds_differ_from_detectron2_only_in_having_no_centre(seed: int) -> None:
    segment_map, info = _random_scene(seed, crowds=True)
    assert any(s["iscrowd"] for s in info)
    found = center_and_offset_targets(segment_map, info, THINGS, 8)
    expected = _reference(segment_map, info, 8)
    for key in (CENTER_WEIGHTS, OFFSET_WEIGHTS):
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
    weights = expected[OFFSET_WEIGHTS]
    difference = found[OFFSET] - expected[OFFSET] * weights
    np.testing.assert_allclose(difference, 0, atol=1e-5)
    without = [s for s in info if not s["iscrowd"]]
    np.testing.assert_allclose(
        found[CENTER], _reference(segment_map, without, 8)[CENTER], atol=1e-6
    )


def test_every_offset_leads_to_the_centre_of_what_is_visible() -> None:
    segment_map, info = _random_scene(0, crowds=False)
    crop = segment_map[5:50, 11:60]
    found = center_and_offset_targets(crop, info, THINGS, 4)
    y, x = np.mgrid[: crop.shape[0], : crop.shape[1]]
    instances = {s["id"] for s in info if s["category_id"] in THINGS} & set(np.unique(crop))
    assert len(instances) > 5
    for number in instances:
        mask = crop == number
        np.testing.assert_allclose((found[OFFSET][0] + y)[mask], y[mask].mean(), atol=1e-4)
        np.testing.assert_allclose((found[OFFSET][1] + x)[mask], x[mask].mean(), atol=1e-4)
        row, col = np.rint(y[mask].mean()).astype(int), np.rint(x[mask].mean()).astype(int)
        assert found[CENTER][row, col] == 1


def test_a_flip_mirrors_the_targets() -> None:
    segment_map, info = _random_scene(2, crowds=True)
    plain = center_and_offset_targets(segment_map, info, THINGS, 4)
    flipped = center_and_offset_targets(segment_map[:, ::-1], info, THINGS, 4)
    np.testing.assert_allclose(flipped[OFFSET][0], plain[OFFSET][0][:, ::-1], atol=1e-4)
    np.testing.assert_allclose(flipped[OFFSET][1], -plain[OFFSET][1][:, ::-1], atol=1e-4)
    np.testing.assert_array_equal(flipped[INSTANCE_CLASS], plain[INSTANCE_CLASS][:, ::-1])


@pytest.mark.parametrize("info", [[], [_segment(1, 0)], [_segment(1, 3)]])
def test_maps_without_instances(info: list[dict[str, int]]) -> None:
    found = center_and_offset_targets(np.zeros((4, 6), np.int32), info, THINGS)
    assert (found[CENTER] == 0).all()
    assert (found[CENTER_WEIGHTS] == 0).all()
    assert (found[INSTANCE_CLASS] == 255).all()


@pytest.mark.parametrize("sigma", [2, 8])
def test_segments_on_the_device_have_the_same_targets(sigma: int) -> None:
    scenes = [_random_scene(seed, crowds=False) for seed in (0, 1)]
    count = 1 + max(len(info) for _, info in scenes)
    classes = torch.full((2, count), 255)
    owners = []
    for image, (segments, info) in enumerate(scenes):
        numbers, categories, _ = segment_attributes(segments, info)
        owners.append(torch.from_numpy(numbers.astype(np.int64)))
        classes[image, : len(categories)] = torch.from_numpy(categories)
    is_thing = torch.zeros(19, dtype=torch.bool)
    is_thing[list(THINGS)] = True
    ones = torch.ones(2, *owners[0].shape)
    found = taught_center_targets(torch.stack(owners), classes, ones, is_thing, sigma)
    for image, (segments, info) in enumerate(scenes):
        expected = center_and_offset_targets(segments, info, THINGS, sigma)
        assert expected[CENTER].max() > 0.9 and expected.keys() == found.keys()
        for name, wanted in expected.items():
            torch.testing.assert_close(
                found[name][image].double(), torch.from_numpy(wanted).double(), rtol=0, atol=1e-4
            )


def test_weights_and_missing_things_of_taught_segments() -> None:
    owners = torch.tensor([[[0, 1, 1, 2]]])
    classes, is_thing = torch.tensor([[255, 0, 1, 1]]), torch.tensor([False, True])
    weights = torch.tensor([[[0.9, 0.8, 0.7, 0.6]]])
    found = taught_center_targets(owners, classes, weights, is_thing, 1.0)
    torch.testing.assert_close(found[CENTER_WEIGHTS], torch.tensor([[[0, 0.8, 0.7, 0.6]]]))
    torch.testing.assert_close(found[OFFSET_WEIGHTS], torch.tensor([[[0, 0, 0, 0.6]]]))
    assert found[INSTANCE_CLASS].tolist() == [[[255, 255, 255, 1]]]
    # The one thing is a pixel: its centre; number 3 is not in the picture and has none.
    assert found[CENTER][0, 0, 3] == 1 and not found[OFFSET].any()
