"""Readers, mappers and targets on odd sizes, odd ids and damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gbw_d2 import keys
from gbw_d2.catalog import get_dataset
from gbw_d2.cityscapes_classes import SYNTHIA_VOID_IDS
from gbw_d2.data.augmentation import AugmentationSettings, WantedPixels
from gbw_d2.data.formats import cityscapes, synthia
from gbw_d2.data.formats.files import png_size, read_array
from gbw_d2.data.mappers import SourceMapper, TargetMapper
from gbw_d2.data.mappers import TestMapper as ImageMapper
from gbw_d2.data.spec import DatasetError
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.modeling.targets.centers import (
    CENTER,
    CENTER_WEIGHTS,
    INSTANCE_CLASS,
    OFFSET,
    OFFSET_WEIGHTS,
    CenterTargetGenerator,
    center_and_offset_targets,
)
from gbw_d2.ops.segments import segment_attributes

SIDES = st.sampled_from([1, 2, 3, 5, 7, 13, 31, 37])
SIZES = st.tuples(SIDES, SIDES)
SEEDS = st.integers(0, 2**32 - 1)
SPACES = st.sampled_from(["cityscapes_19", "cityscapes_16", "cityscapes_13"])
KNOWN = np.arange(23, dtype=np.uint16)


@st.composite
def augmentations(draw: Any) -> AugmentationSettings:
    low = draw(st.floats(0.05, 2.0))
    return AugmentationSettings(
        resize=draw(st.none() | SIZES),
        scale_range=(low, low * draw(st.floats(1.0, 3.0))),
        crop_size=draw(st.none() | SIZES),
        flip_probability=draw(st.sampled_from([0.0, 0.5, 1.0])),
        cat_max_ratio=draw(st.sampled_from([0.0, 0.75, 1.0])),
        crop_tries=draw(st.integers(1, 3)),
        color_jitter=draw(st.sampled_from([0.0, 0.4, 1.0])),
    )


def synthia_record(folder: Path, size: tuple[int, int], rng: np.random.Generator) -> dict[str, Any]:
    """Writes an image and a label of few or many segments; some are all void."""
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    label = np.zeros((*size, 3), dtype=np.uint16)
    if rng.random() < 0.8:
        label[..., 2] = rng.choice(rng.permutation(KNOWN)[: rng.integers(1, 24)], size)
        label[..., 1] = rng.choice([0, 1, 255, 256, 40000, 65535], size)
    else:
        label[..., 2] = rng.choice(SYNTHIA_VOID_IDS, size)
    paths = (str(folder / "image.png"), str(folder / "label.png"))
    assert cv2.imwrite(paths[0], image) and cv2.imwrite(paths[1], label)
    return {
        keys.FILE_NAME: paths[0],
        keys.IMAGE_ID: "0",
        keys.HEIGHT: size[0],
        keys.WIDTH: size[1],
        synthia.LABEL_FILE: paths[1],
    }


def check_targets(sample: dict[str, np.ndarray], size: tuple[int, int], space: Any) -> None:
    center, offset = sample[CENTER], sample[OFFSET]
    classes, weights = sample[INSTANCE_CLASS], sample[OFFSET_WEIGHTS]
    assert center.shape == classes.shape == weights.shape == size and offset.shape == (2, *size)
    assert center.min() >= 0 and center.max() <= 1
    on_instance = classes != 255
    assert np.isin(classes[on_instance], space.thing_ids).all()
    np.testing.assert_array_equal(weights > 0, on_instance)
    assert (sample[CENTER_WEIGHTS][on_instance] == 1).all()
    assert not offset[:, ~on_instance].any()
    # Every instance has one centre, of height 1, and there are none elsewhere.
    assert (center.max() == 1) == on_instance.any()
    y, x = np.mgrid[: size[0], : size[1]]
    place = np.stack([y, x]) + offset
    assert (place >= -1e-3).all()
    assert (place[0][on_instance] <= size[0] - 1 + 1e-3).all()
    assert (place[1][on_instance] <= size[1] - 1 + 1e-3).all()


@given(SIZES, SEEDS, SPACES, augmentations(), st.booleans())
def test_source_samples(
    tmp_path: Path,
    size: tuple[int, int],
    seed: int,
    space_name: str,
    augmentation: AugmentationSettings,
    panoptic: bool,
) -> None:
    rng, space = np.random.default_rng(seed), LABEL_SPACES.get(space_name)
    record = synthia_record(tmp_path, size, rng)
    spec = get_dataset("synthia_panoptic_train").in_space(space)
    mapper = SourceMapper(
        spec.read_semantic,
        spec.read_panoptic if panoptic else None,
        space,
        augmentation,
        CenterTargetGenerator(space.thing_ids, 8),
    )
    wanted = WantedPixels(int(rng.integers(space.num_classes)), 1) if seed % 2 else None
    sample = mapper(record, rng, wanted)
    rows, columns = sample[keys.IMAGE].shape[1:]
    if augmentation.crop_size is not None:
        assert (rows, columns) == augmentation.crop_size
    semantic = sample[keys.SEM_SEG].numpy()
    assert semantic.shape == (rows, columns)
    assert set(np.unique(semantic)) <= {*range(space.num_classes), 255}
    if not panoptic:
        return
    check_targets(
        {k: v.numpy() for k, v in sample.items() if k in PANOPTIC}, (rows, columns), space
    )
    instances = sample[INSTANCE_CLASS].numpy()
    np.testing.assert_array_equal(instances[instances != 255], semantic[instances != 255])


PANOPTIC = (
    CENTER,
    CENTER_WEIGHTS,
    OFFSET,
    OFFSET_WEIGHTS,
    INSTANCE_CLASS,
)


@given(SIZES, SEEDS, augmentations(), st.none() | SIZES)
def test_images_without_labels(
    tmp_path: Path,
    size: tuple[int, int],
    seed: int,
    augmentation: AugmentationSettings,
    resize: tuple[int, int] | None,
) -> None:
    rng = np.random.default_rng(seed)
    record = synthia_record(tmp_path, size, rng)
    sample = TargetMapper(augmentation)(record, rng)
    own = {keys.IMAGE, keys.IMAGE_ROWS}
    assert set(sample) == {*(k for k in record if k != synthia.LABEL_FILE), *own}
    assert sample[keys.IMAGE_ROWS].shape == sample[keys.IMAGE].shape[1:2]
    image = ImageMapper(resize=resize)(record)[keys.IMAGE]
    assert tuple(image.shape) == (3, *(resize or size))


@given(SIZES, SEEDS)
def test_a_synthia_label_covers_each_pixel_once(
    tmp_path: Path, size: tuple[int, int], seed: int
) -> None:
    record = synthia_record(tmp_path, size, np.random.default_rng(seed))
    semantic = synthia.read_semantic(record)
    segments, info = synthia.read_panoptic(record)
    assert sum(s["area"] for s in info) == (semantic != 255).sum()
    np.testing.assert_array_equal(segments > 0, semantic != 255)
    numbers, categories, _ = segment_attributes(segments, info)
    np.testing.assert_array_equal(categories[numbers], semantic)
    assert set(np.unique(numbers)) | {0} == {*range(len(info) + 1)}


@given(SIZES, SEEDS, SPACES, st.integers(0, 11), st.sampled_from([0.3, 1.0, 8.0, 50.0]))
def test_targets_of_any_ids(
    size: tuple[int, int], seed: int, space_name: str, count: int, sigma: float
) -> None:
    rng, space = np.random.default_rng(seed), LABEL_SPACES.get(space_name)
    ids = rng.permutation([1, 2, 7, 255, 256, 65535, 65536, 70001, 131072, 2**20, 2**24 - 1])[
        :count
    ]
    info = [
        {
            "id": int(i),
            "category_id": int(rng.choice([255, *range(space.num_classes)])),
            "iscrowd": int(rng.random() < 0.2),
        }
        for i in ids
    ]
    # Some of the listed segments are empty, and one id of the map is not listed.
    segments = rng.choice([0, 3, *ids[: rng.integers(0, count + 1)]], size).astype(np.int32)
    targets = center_and_offset_targets(segments, info, space.thing_ids, sigma)
    check_targets(targets, size, space)
    void = np.isin(segments, [0, 3])
    assert not targets[CENTER_WEIGHTS][void].any()
    for segment in info:
        here = segments == segment["id"]
        thing = segment["category_id"] in space.thing_ids and not segment["iscrowd"]
        if thing and here.any():
            y, x = (axis.mean() for axis in np.nonzero(here))
            assert targets[CENTER][round(y), round(x)] == 1
            assert (targets[INSTANCE_CLASS][here] == segment["category_id"]).all()


@given(SEEDS, st.sampled_from(["image", "label"]), st.sampled_from(["flip", "cut", "zero"]))
def test_a_damaged_png_is_refused_or_unchanged(
    tmp_path: Path, seed: int, kind: str, damage: str
) -> None:
    rng = np.random.default_rng(seed)
    record = synthia_record(tmp_path, (7, 13), rng)
    path = Path(record[keys.FILE_NAME if kind == "image" else synthia.LABEL_FILE])
    expected = read_array(path, cv2.IMREAD_UNCHANGED)
    data = bytearray(path.read_bytes())
    place = int(rng.integers(len(data)))
    if damage == "cut":
        del data[place:]
    elif damage == "flip":
        data[place] ^= 1 << rng.integers(8)
    else:
        data[place : place + 8] = bytes(len(data[place : place + 8]))
    path.write_bytes(data)
    try:
        found = read_array(path, cv2.IMREAD_UNCHANGED)
    except DatasetError as error:
        assert str(path) in str(error)
    else:
        np.testing.assert_array_equal(found, expected)
    try:
        png_size(path)
    except DatasetError as error:
        assert str(path) in str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
SEGMENT = {"id": 1, "category_id": 0, "iscrowd": 0}
ANNOTATION = {"image_id": "a", "file_name": "a.png", "segments_info": [SEGMENT]}


@given(
    JSON,
    st.sampled_from(
        [
            *[(), ("annotations",), ("annotations", 0)],
            *[("annotations", 0, k) for k in ANNOTATION],
            *[("annotations", 0, "segments_info", 0, k) for k in SEGMENT],
        ]
    ),
)
def test_any_json_in_place_of_the_annotations(tmp_path: Path, value: Any, place: tuple) -> None:
    content: Any = json.loads(json.dumps({"annotations": [ANNOTATION]}))
    if place:
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
    else:
        content = value
    root = tmp_path / "data"
    path = cityscapes.panoptic_json(root, "val")
    path.with_suffix("").mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for folder, suffix in (
        ("leftImg8bit", cityscapes.IMAGE_SUFFIX),
        ("gtFine", cityscapes.TRAIN_ID_SUFFIX),
    ):
        (root / folder / "val" / "a").mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / folder / "val" / "a" / f"a{suffix}"), np.zeros((2, 3)))
    assert cv2.imwrite(str(path.with_suffix("") / "a.png"), np.zeros((2, 3, 3)))
    try:
        records = cityscapes.load_panoptic(root, "val")
        cityscapes.read_panoptic(records[0])
    except DatasetError as error:
        assert str(root) in str(error)
    else:
        # The PNG file is all void, so only a list without segments fits it.
        assert not records[0][cityscapes.SEGMENTS]
