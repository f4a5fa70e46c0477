"""Mappers: labels follow the image, nothing depends on hidden state, the target has no labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from gbw_d2 import keys
from gbw_d2.catalog import get_dataset
from gbw_d2.data.augmentation import (
    AugmentationSettings,
    WantedPixels,
    augment,
    resize_image,
    resize_labels,
)
from gbw_d2.data.mappers import SourceMapper, TargetMapper, TestMapper
from gbw_d2.data.spec import DatasetError
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.modeling.targets.centers import (
    CENTER,
    CENTER_WEIGHTS,
    INSTANCE_CLASS,
    OFFSET,
    OFFSET_WEIGHTS,
    CenterTargetGenerator,
)
from gbw_d2.modeling.targets.none import no_targets

SPACE = LABEL_SPACES.get("cityscapes_16")
PANOPTIC_KEYS = {
    CENTER,
    CENTER_WEIGHTS,
    OFFSET,
    OFFSET_WEIGHTS,
    INSTANCE_CLASS,
}
IMAGE_KEYS = {keys.FILE_NAME, keys.IMAGE_ID, keys.HEIGHT, keys.WIDTH, keys.IMAGE}
PLAIN = AugmentationSettings(flip_probability=0)
BUSY = AugmentationSettings(
    resize=(30, 50), scale_range=(0.5, 2.0), crop_size=(20, 20), color_jitter=0.3
)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _source(name: str, augmentation: AugmentationSettings, **settings: Any) -> SourceMapper:
    spec = get_dataset(name).in_space(SPACE)
    generate = CenterTargetGenerator(SPACE.thing_ids, 8)
    return SourceMapper(
        spec.read_semantic, spec.read_panoptic, SPACE, augmentation, generate, **settings
    )


@pytest.mark.parametrize("name", ["synthia_panoptic_train", "cityscapes_panoptic_train"])
def test_a_panoptic_sample(synthia_root: Path, cityscapes_root: Path, name: str) -> None:
    record = get_dataset(name).load()[0]
    sample = _source(name, PLAIN)(record, _rng())
    assert sample.keys() == IMAGE_KEYS | PANOPTIC_KEYS | {
        keys.SEM_SEG,
        keys.SEGMENTS,
        keys.SEGMENTS_INFO,
    }
    assert sample[keys.IMAGE].dtype == torch.uint8
    assert sample[keys.IMAGE].shape == (3, 24, 40)
    assert sample[keys.SEM_SEG].dtype == torch.int64
    assert sample[OFFSET].shape == (2, 24, 40)
    car = SPACE.class_names.index("car")
    assert (sample[INSTANCE_CLASS][5:15, 2:10] == car).all()
    assert (sample[keys.SEM_SEG][sample[INSTANCE_CLASS] == car] == car).all()


@pytest.mark.parametrize("kind", ["synthia_{}_train", "cityscapes_{}_train"])
def test_both_kinds_of_labels_give_the_same_semantic_map(
    synthia_root: Path, cityscapes_root: Path, kind: str
) -> None:
    panoptic, semantic = kind.format("panoptic"), kind.format("semantic")
    record = get_dataset(panoptic).load()[0]
    one = _source(panoptic, BUSY)(record, _rng(5))
    two = _source(semantic, BUSY)(record, _rng(5))
    assert two.keys() == IMAGE_KEYS | {keys.SEM_SEG}
    assert len(torch.unique(one[keys.SEM_SEG])) > 1
    torch.testing.assert_close(one[keys.SEM_SEG], two[keys.SEM_SEG])
    torch.testing.assert_close(one[keys.IMAGE], two[keys.IMAGE])


def test_classes_outside_the_label_space_are_ignored(cityscapes_root: Path) -> None:
    record = get_dataset("cityscapes_panoptic_train").load()[0]
    for segment in record["segments_info"]:
        if segment["id"] == 26000:
            segment["category_id"] = 14  # truck
    sample = _source("cityscapes_panoptic_train", PLAIN)(record, _rng())
    assert (sample[keys.SEM_SEG][5:15, 2:10] == 255).all()
    assert (sample[CENTER_WEIGHTS][5:15, 2:10] == 0).all()
    assert (sample[INSTANCE_CLASS][5:15, 2:10] == 255).all()


def test_the_channel_order(synthia_root: Path) -> None:
    record = get_dataset("synthia_panoptic_train").load()[0]
    bgr = torch.from_numpy(cv2.imread(record[keys.FILE_NAME])).permute(2, 0, 1)
    for image_format, expected in (("BGR", bgr), ("RGB", bgr.flip(0))):
        for mapper in (
            _source("synthia_panoptic_train", PLAIN, image_format=image_format),
            TargetMapper(PLAIN, image_format),
        ):
            assert torch.equal(mapper(record, _rng())[keys.IMAGE], expected)
        assert torch.equal(TestMapper(image_format)(record)[keys.IMAGE], expected)
    with pytest.raises(ValueError, match="'L', expected 'RGB' or 'BGR'"):
        TestMapper("L")(record)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_sample_depends_on_the_generator_alone(synthia_root: Path, labelled: bool) -> None:
    record = get_dataset("synthia_panoptic_train").load()[0]
    mapper = _source("synthia_panoptic_train", BUSY) if labelled else TargetMapper(BUSY)
    np.random.seed(1)
    torch.manual_seed(1)
    first = mapper(record, _rng(1))
    np.random.seed(2)
    torch.manual_seed(2)
    again, other = mapper(record, _rng(1)), mapper(record, _rng(2))
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, again[key]), key
    assert not torch.equal(first[keys.IMAGE], other[keys.IMAGE])


def test_the_target_mapper_drops_every_label(cityscapes_root: Path) -> None:
    """A labelled record whose label files are gone: nothing of it may be needed or passed on."""
    record = get_dataset("cityscapes_panoptic_train").load()[0]
    for key in ("sem_seg_file_name", "pan_seg_file_name"):
        Path(record[key]).unlink()
    record |= {
        "annotations": [{"bbox": [0, 0, 1, 1]}],
        "sem_seg": np.zeros((24, 40)),
        "a_label_of_tomorrow": 1,
    }
    sample = TargetMapper(BUSY)(record, _rng())
    assert sample.keys() == IMAGE_KEYS | {keys.IMAGE_ROWS}
    with pytest.raises(DatasetError):
        _source("cityscapes_panoptic_train", BUSY)(record, _rng())


def test_the_target_mapper_cannot_be_asked_for_a_class(cityscapes_root: Path) -> None:
    record = get_dataset("cityscapes_unlabelled_train").load()[0]
    with pytest.raises(ValueError, match="rare class sampling needs labels"):
        TargetMapper(PLAIN)(record, _rng(), WantedPixels(0, 1))


def test_the_test_mapper_reads_no_label(cityscapes_root: Path) -> None:
    record = get_dataset("cityscapes_panoptic_val").load()[0]
    for key in ("sem_seg_file_name", "pan_seg_file_name"):
        Path(record[key]).unlink()
    sample = TestMapper(resize=(12, 20))(record)
    assert sample[keys.IMAGE].shape == (3, 12, 20)
    assert (sample[keys.HEIGHT], sample[keys.WIDTH]) == (24, 40)
    assert sample["segments_info"] == record["segments_info"]


def test_a_source_without_labels_is_refused() -> None:
    spec = get_dataset("cityscapes_unlabelled_train")
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN needs a labelled"):
        SourceMapper(spec.read_semantic, spec.read_panoptic, SPACE, PLAIN, no_targets)


def test_an_image_of_another_size_than_its_record(synthia_root: Path) -> None:
    record = get_dataset("synthia_panoptic_train").load()[0] | {"height": 25}
    with pytest.raises(DatasetError, match="24x40 pixels"):
        TargetMapper(PLAIN)(record, _rng())


def _striped() -> tuple[np.ndarray, np.ndarray]:
    """An image whose red channel is its label map: label = 10 * (column // 4) + row // 6."""
    y, x = np.mgrid[:24, :40]
    labels = (10 * (x // 4) + y // 6).astype(np.uint8)
    return np.stack([labels] * 3, axis=2), labels


@pytest.mark.parametrize("seed", range(8))
def test_labels_follow_the_image(seed: int) -> None:
    image, labels = _striped()
    settings = AugmentationSettings(crop_size=(16, 50), flip_probability=0.5)
    found, (semantic, segments), _ = augment(
        image, [(labels, 255), (labels.astype(np.int32) * 300, 0)], settings, _rng(seed)
    )
    assert found.shape == (16, 50, 3) and semantic.shape == segments.shape == (16, 50)
    inside = semantic != 255
    assert inside.sum() == 16 * 40
    np.testing.assert_array_equal(found[inside][:, 0], semantic[inside])
    np.testing.assert_array_equal(segments, np.where(inside, semantic.astype(np.int32) * 300, 0))
    assert (found[~inside] == (124, 116, 104)).all()


def test_the_rows_of_a_crop_are_places_in_the_image() -> None:
    # Each row of the image is its number; half the size: rows 0 and 1 become the first one.
    image = np.arange(20, dtype=np.uint8).repeat(30).reshape(20, 30)[..., None].repeat(3, axis=2)
    half = {"resize": (10, 15), "flip_probability": 0.0}
    for seed in range(10):
        settings = AugmentationSettings(crop_size=(4, 8), scale_range=(1.0, 2.0), **half)
        crop, _, rows = augment(image, [], settings, _rng(seed))
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows * 20, crop[:, 0, 0] + 0.5, atol=1.01)
    _, _, rows = augment(image, [], AugmentationSettings(crop_size=(14, 8), **half), _rng())
    np.testing.assert_allclose(rows, (np.arange(14) + 0.5) / 10, rtol=1e-6)


def test_both_flips_and_many_crops_occur() -> None:
    image, labels = _striped()
    settings = AugmentationSettings(crop_size=(12, 20))
    crops = [augment(image, [(labels, 255)], settings, _rng(s))[1][0] for s in range(200)]
    flips = np.mean([crop[0, 0] > crop[0, -1] for crop in crops])
    assert 0.4 < flips < 0.6
    corners = {(int(crop.min()) // 10, int(crop.min()) % 10) for crop in crops}
    assert {column for column, _ in corners} == set(range(6))
    assert {row for _, row in corners} == {0, 1, 2}


def test_resizing_keeps_image_and_labels_aligned() -> None:
    labels = np.zeros((40, 60), dtype=np.int32)
    labels[10:30, 15:40] = 70000
    image = np.where(labels[..., None] > 0, 255, 0).astype(np.uint8).repeat(3, axis=2)
    for size in ((20, 30), (80, 120), (52, 93)):
        big, ids = resize_image(image, size), resize_labels(labels, size)
        assert big.shape[:2] == ids.shape == size
        assert ids.dtype == np.int32 and set(np.unique(ids)) == {0, 70000}
        # Where the smooth image is nearer to the object, the label must be the object's.
        assert ((big[..., 0] > 127) != (ids > 0)).mean() < 0.02
    assert resize_labels(labels, (40, 60)) is labels


@pytest.mark.parametrize("size", [(24, 28), (80, 124), (56, 92), (8, 4)])
def test_labels_take_the_nearest_pixel_centre_as_opencv_does(size: tuple[int, int]) -> None:
    # Multiples of 8 and 4, so that no new centre lies on the border of two old pixels.
    labels = _rng().integers(0, 256, (40, 60), dtype=np.uint8)
    expected = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    np.testing.assert_array_equal(resize_labels(labels, size), expected)


def test_scaled_sizes() -> None:
    image, labels = _striped()
    settings = AugmentationSettings(resize=(48, 80), scale_range=(0.5, 0.5))
    found, maps, _ = augment(image, [(labels, 255)], settings, _rng())
    assert found.shape == (24, 40, 3)
    assert maps[0].shape == (24, 40)


def test_short_sides_are_drawn_from_their_list() -> None:
    image, labels = _striped()
    settings = AugmentationSettings(resize=(48, 80), short_sides=(24, 96))
    found = [augment(image, [(labels, 255)], settings, _rng(seed))[1][0] for seed in range(12)]
    # Upright pictures, too: the columns are then the shorter side.
    assert {each.shape for each in found} == {(24, 40), (96, 160)}
    upright = augment(image, [], AugmentationSettings(resize=(80, 48), short_sides=(24,)), _rng())
    assert upright[0].shape == (40, 24, 3)


def test_crops_are_drawn_again_until_no_class_dominates() -> None:
    labels = np.zeros((20, 200), dtype=np.uint8)
    labels[:, 100:120] = np.arange(20)[None, :] % 5
    image = labels[..., None].repeat(3, axis=2)
    plain = AugmentationSettings(crop_size=(20, 20), flip_probability=0)
    picky = AugmentationSettings(
        crop_size=(20, 20), flip_probability=0, cat_max_ratio=0.75, crop_tries=200
    )
    shares = []
    for settings in (plain, picky):
        crops = [augment(image, [(labels, 255)], settings, _rng(s))[1][0] for s in range(20)]
        shares.append(max(np.bincount(crop.ravel()).max() / crop.size for crop in crops))
    assert shares[0] == 1
    assert shares[1] < 0.75


def test_crops_are_drawn_again_until_the_wanted_class_is_seen() -> None:
    labels = np.zeros((20, 200), dtype=np.uint8)
    labels[:, 100:120] = 6
    image = labels[..., None].repeat(3, axis=2)
    settings = AugmentationSettings(crop_size=(20, 20), crop_tries=300)
    for seed in range(10):
        wanted = WantedPixels(6, 200)
        _, (crop,), _ = augment(image, [(labels, 255)], settings, _rng(seed), wanted)
        assert (crop == 6).sum() > 200


def test_color_jitter_changes_colours_only() -> None:
    image, labels = _striped()
    settings = AugmentationSettings(flip_probability=0, color_jitter=0.5)
    found, maps, _ = augment(image, [(labels, 255)], settings, _rng(3))
    assert found.dtype == np.uint8 and (found != image).any()
    np.testing.assert_array_equal(maps[0], labels)


@pytest.mark.parametrize(
    "settings",
    [
        {"scale_range": (2.0, 1.0)},
        {"scale_range": (0.0, 1.0)},
        {"scale_range": (0.5, 1.0), "short_sides": (24,)},
        {"crop_size": (0, 5)},
        {"resize": (5,)},
        {"flip_probability": 1.5},
        {"crop_tries": 0},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        AugmentationSettings(**settings)
