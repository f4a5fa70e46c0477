"""The cache returns images and labels unchanged, and nothing if their file has changed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch

from gbw_d2 import keys
from gbw_d2.catalog import get_dataset
from gbw_d2.data import decoded_cache
from gbw_d2.data.augmentation import AugmentationSettings
from gbw_d2.data.decoded_cache import SUFFIX, DecodedCache
from gbw_d2.data.formats.files import read_image
from gbw_d2.data.loaders import build_train_loader
from gbw_d2.data.mappers import SourceMapper, TargetMapper
from gbw_d2.data.sampling import EpochPermutation
from gbw_d2.data.spec import DatasetError, Record
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.modeling.targets.centers import CenterTargetGenerator

SPACE = LABEL_SPACES.get("cityscapes_16")
CROPS = AugmentationSettings(crop_size=(16, 20), cat_max_ratio=0.75)
BUSY = AugmentationSettings(resize=(30, 50), scale_range=(0.5, 2.0), crop_size=(20, 20))
NAMES = ["synthia_panoptic_train", "synthia_semantic_train", "cityscapes_panoptic_train"]


def mapper(
    name: str, cache: DecodedCache | None, augmentation: AugmentationSettings = CROPS
) -> SourceMapper:
    """Makes source samples with a cache, or without."""
    spec = get_dataset(name)
    learned = spec.in_space(SPACE) if cache is None else cache.kept(spec, SPACE)
    return SourceMapper(
        learned.read_semantic,
        learned.read_panoptic,
        SPACE,
        augmentation,
        CenterTargetGenerator(SPACE.thing_ids, 2.0),
        read=read_image if cache is None else cache.read_image,
    )


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compares two samples, types included."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(found[key], value, rtol=0, atol=0)
        else:
            assert found[key] == value


def refuse(*_: Any) -> Any:
    raise AssertionError("decoded although it is there")


class Roots(NamedTuple):
    data: Path
    cache: Path


@pytest.fixture
def roots(synthia_root: Path, cityscapes_root: Path, tmp_path: Path) -> Roots:
    return Roots(tmp_path, tmp_path / "decoded")


@pytest.fixture
def record(roots: Roots) -> Record:
    return get_dataset(NAMES[0]).load()[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("augmentation", [CROPS, BUSY, AugmentationSettings()])
def test_samples_are_those_of_the_files(
    roots: Roots, monkeypatch: pytest.MonkeyPatch, name: str, augmentation: AugmentationSettings
) -> None:
    records = get_dataset(name).load()
    expected = [
        mapper(name, None, augmentation)(r, np.random.default_rng(i)) for i, r in enumerate(records)
    ]
    for turn in range(3):
        if turn == 1:
            monkeypatch.setattr(decoded_cache, "_decode_image", refuse)
            monkeypatch.setattr(decoded_cache, "_decode_panoptic", refuse)
            monkeypatch.setattr(decoded_cache, "_decode_semantic", refuse)
        draw = mapper(name, DecodedCache(roots.cache), augmentation)
        for i, r in enumerate(records):
            assert_same(draw(r, np.random.default_rng(i)), expected[i])
    assert len(list(roots.cache.rglob(f"*{SUFFIX}"))) == 2 * len(records)


def test_target_samples_and_channel_orders(roots: Roots, record: Record) -> None:
    cache = DecodedCache(roots.cache)
    for _, order in itertools.product(range(2), ("RGB", "BGR")):
        expected = TargetMapper(CROPS, order)(record, np.random.default_rng(1))
        found = TargetMapper(CROPS, order, cache.read_image)(record, np.random.default_rng(1))
        assert_same(found, expected)


def test_another_label_space_has_entries_of_its_own(roots: Roots, record: Record) -> None:
    cache, spec = DecodedCache(roots.cache), get_dataset(NAMES[1])
    for name in ("cityscapes_19", "cityscapes_16", "cityscapes_19"):
        space = LABEL_SPACES.get(name)
        read, kept = spec.in_space(space).read_semantic, cache.kept(spec, space).read_semantic
        assert read is not None and kept is not None
        np.testing.assert_array_equal(kept(record), read(record))


def test_large_segment_ids_keep_their_bytes(roots: Roots, record: Record) -> None:
    segments = np.array([[0, 70_000]], dtype=np.int32)
    read = partial(decoded_cache._decode_panoptic, lambda _: (segments, []))
    assert read(record)[0].dtype == np.uint32
    np.testing.assert_array_equal(read(record)[0], segments)


def test_changed_files_are_decoded_again(roots: Roots, record: Record) -> None:
    cache = DecodedCache(roots.cache)
    draw, rng = mapper(NAMES[0], cache), np.random.default_rng
    draw(record, rng(0))
    image = cv2.imread(record[keys.FILE_NAME])
    # Of the same size in bytes or not: the time tells.
    cv2.imwrite(record[keys.FILE_NAME], 255 - image)
    os.utime(record[keys.FILE_NAME], ns=(1, 1))
    label = cv2.imread(record["label_file_name"], cv2.IMREAD_UNCHANGED)
    cv2.imwrite(record["label_file_name"], label[:, ::-1])
    os.utime(record["label_file_name"], ns=(1, 1))
    expected = mapper(NAMES[0], None)(record, rng(0))
    for _ in range(2):
        assert_same(draw(record, rng(0)), expected)
    assert len(list(roots.cache.rglob(f"*{SUFFIX}"))) == 2


def test_labels_follow_their_json_file(roots: Roots) -> None:
    name = "cityscapes_panoptic_train"
    changed = get_dataset(name).load()[0]
    cache = DecodedCache(roots.cache)
    mapper(name, cache)(changed, np.random.default_rng(0))
    for segment in changed["segments_info"]:
        if segment["id"] == 26000:
            segment["category_id"] = 14  # truck, which the network does not learn
    found = mapper(name, cache)(changed, np.random.default_rng(0))
    assert_same(found, mapper(name, None)(changed, np.random.default_rng(0)))


def cut(data: bytes) -> bytes:
    return data[:-1]


def flip_a_pixel(data: bytes) -> bytes:
    return data[:-7] + bytes([data[-7] ^ 1]) + data[-6:]


def flip_the_head(data: bytes) -> bytes:
    return data[:20] + bytes([data[20] ^ 1]) + data[21:]


def claim_a_long_head(data: bytes) -> bytes:
    return data[:8] + b"\xff\xff\xff\xff" + data[12:]


@pytest.mark.parametrize(
    "damage",
    [cut, flip_a_pixel, flip_the_head, claim_a_long_head, lambda _: b"", lambda _: b"junk"],
)
def test_damaged_entries_are_made_again(
    roots: Roots,
    record: Record,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
) -> None:
    expected = read_image(record[keys.FILE_NAME], "RGB")
    DecodedCache(roots.cache).read_image(record[keys.FILE_NAME], "RGB")
    (entry,) = roots.cache.rglob(f"*{SUFFIX}")
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    found = DecodedCache(roots.cache).read_image(record[keys.FILE_NAME], "RGB")
    np.testing.assert_array_equal(found, expected)
    assert "is made again" in caplog.text
    assert entry.read_bytes() == whole


def test_nothing_is_written_where_a_file_cannot_be_read(roots: Roots, record: Record) -> None:
    cache = DecodedCache(roots.cache)
    Path(record[keys.FILE_NAME]).write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="not an image"):
        cache.read_image(record[keys.FILE_NAME], "RGB")
    Path(record[keys.FILE_NAME]).unlink()
    with pytest.raises(DatasetError, match="cannot read"):
        cache.read_image(record[keys.FILE_NAME], "RGB")
    assert not list(roots.cache.rglob("*.*"))


def test_the_size_is_told_before_anything_is_made(
    roots: Roots, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = get_dataset(NAMES[0])
    records, cache = spec.load(), DecodedCache(roots.cache)
    labels = (spec, SPACE, True)
    with caplog.at_level("INFO"):
        cache.announce(records, "RGB", labels)
    assert "of 3 images and their labels takes about 0.0 GB" in caplog.text
    assert not list(roots.cache.rglob("*.*"))
    pixels = records[0][keys.HEIGHT] * records[0][keys.WIDTH]
    free = [3 * (5 * pixels + 2 * 4096) - 1]
    monkeypatch.setattr(
        decoded_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free[0]})
    )
    with pytest.raises(DatasetError, match=r"0\.0 GB are free; give a folder on a larger disk"):
        cache.announce(records, "RGB", labels)
    free[0] += 1
    cache.announce(records, "RGB", labels)
    # What is there is not asked for again.
    for record in records:
        mapper(NAMES[0], cache)(record, np.random.default_rng(0))
    taken = sum(path.stat().st_size for path in roots.cache.rglob(f"*{SUFFIX}"))
    assert taken <= free[0]
    free[0] = 0
    cache.announce(records, "RGB", labels)


def test_a_folder_that_cannot_be_written_is_told(roots: Roots, record: Record) -> None:
    (roots.data / "file").write_text("")
    cache = DecodedCache(roots.data / "file" / "decoded")
    with pytest.raises(DatasetError, match=r"DECODED_CACHE '.*' cannot be written to \(Not a dir"):
        cache.announce([record], "RGB")
    with pytest.raises(DatasetError, match=r"DECODED_CACHE '.*' cannot be written to \(Not a dir"):
        cache.read_image(record[keys.FILE_NAME], "RGB")


def test_loaders_share_a_folder(roots: Roots) -> None:
    records = get_dataset(NAMES[0]).load()
    loaders = [
        build_train_loader(
            records,
            mapper(NAMES[0], cache),
            EpochPermutation(len(records), 0, "source"),
            batch_size=6,
            seed=0,
            name="source",
            num_workers=workers,
        )
        for cache, workers in ((None, 0), (DecodedCache(roots.cache), 2))
    ]
    for expected, found in itertools.islice(zip(*loaders, strict=True), 2):
        for one, two in zip(found, expected, strict=True):
            assert_same(one, two)
    assert all(path.suffix == SUFFIX for path in roots.cache.rglob("*.*"))
