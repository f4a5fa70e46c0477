"""Sample ``i`` is a pure function of (seed, ``i``), whatever the workers and processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gbw_d2.catalog import get_dataset
from gbw_d2.data.augmentation import AugmentationSettings, WantedPixels
from gbw_d2.data.loaders import PairedLoader, build_test_loader, build_train_loader
from gbw_d2.data.mappers import SourceMapper, TestMapper
from gbw_d2.data.sampling import Draw, EpochPermutation, RareClassSampling
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.modeling.targets.centers import CenterTargetGenerator


def _number_mapper(
    record: dict[str, Any], rng: np.random.Generator, wanted: WantedPixels | None
) -> dict[str, Any]:
    return {"number": record["number"], "random": int(rng.integers(2**62)), "wanted": wanted}


def _numbers(count: int = 5) -> list[dict[str, Any]]:
    return [{"number": i} for i in range(count)]


def _loader(**changes: Any) -> Iterator[list[dict[str, Any]]]:
    settings = {"batch_size": 4, "seed": 3, "name": "source", **changes}
    stream = EpochPermutation(5, settings["seed"], settings["name"])
    return build_train_loader(_numbers(), _number_mapper, stream, **settings)


def _take(loader: Iterator[Any], count: int) -> list[Any]:
    return list(itertools.islice(loader, count))


def test_an_epoch_shows_every_image_once() -> None:
    samples = [s["number"] for batch in _take(_loader(), 5) for s in batch]
    for epoch in range(4):
        assert sorted(samples[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    assert samples[:5] != samples[5:10] or samples[5:10] != samples[10:15]


def test_no_two_draws_share_their_randomness() -> None:
    randoms = [s["random"] for batch in _take(_loader(), 5) for s in batch]
    randoms += [s["random"] for batch in _take(_loader(name="target"), 5) for s in batch]
    randoms += [s["random"] for batch in _take(_loader(seed=4), 5) for s in batch]
    assert len(set(randoms)) == 60


def test_a_restart_continues_exactly() -> None:
    assert _take(_loader(start=3), 4) == _take(_loader(), 7)[3:]


def test_processes_share_the_global_batch() -> None:
    whole = _take(_loader(), 4)
    parts = [_take(_loader(rank=rank, world_size=2), 4) for rank in range(2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == whole


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="4 source images cannot be shared by 3"):
        _loader(world_size=3)


def test_draws_can_be_asked_in_any_order() -> None:
    stream, other = EpochPermutation(7, 1, "source"), EpochPermutation(7, 1, "source")
    forward = [stream(i) for i in range(30)]
    assert [other(i) for i in reversed(range(30))] == forward[::-1]


def test_the_wanted_class_reaches_the_mapper() -> None:
    wanted = WantedPixels(2, 10.0)
    loader = build_train_loader(
        _numbers(), _number_mapper, lambda i: Draw(i % 5, wanted), batch_size=1, seed=0, name="x"
    )
    assert next(loader)[0]["wanted"] == wanted


def test_workers_change_nothing(synthia_root: Path) -> None:
    space = LABEL_SPACES.get("cityscapes_16")
    spec = get_dataset("synthia_panoptic_train").in_space(space)
    mapper = SourceMapper(
        spec.read_semantic,
        spec.read_panoptic,
        space,
        AugmentationSettings(scale_range=(0.5, 2.0), crop_size=(16, 16), color_jitter=0.2),
        CenterTargetGenerator(LABEL_SPACES.get("cityscapes_16").thing_ids, 8),
    )
    batches = []
    for num_workers in (0, 2):
        stream = EpochPermutation(3, 0, "source")
        loader = build_train_loader(
            spec.load(),
            mapper,
            stream,
            batch_size=2,
            seed=0,
            name="source",
            num_workers=num_workers,
        )
        batches.append(_take(loader, 4))
    for one, two in zip(*batches, strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.keys() == b.keys()
            for key, value in a.items():
                if isinstance(value, torch.Tensor):
                    assert torch.equal(value, b[key]), key
                else:
                    assert value == b[key]


def test_pairs() -> None:
    source, target = next(PairedLoader(_loader(), _loader(name="target")))
    assert len(source) == 4 and target is not None and len(target) == 4
    assert next(PairedLoader(_loader()))[1] is None


def test_the_test_loader_shows_every_image_once_over_all_processes(cityscapes_root: Path) -> None:
    records = get_dataset("cityscapes_panoptic_train").load()
    ids = []
    for rank in range(2):
        for batch in build_test_loader(records, TestMapper(), rank=rank, world_size=2):
            assert len(batch) == 1
            assert batch[0]["image"].shape == (3, 24, 40)
            ids.append(batch[0]["image_id"])
    assert ids == [r["image_id"] for r in records]


def test_rare_class_sampling_frequencies() -> None:
    # Class 0 has 900 of 1000 pixels, class 1 has 100, class 2 none.
    pixels = np.array([[500, 0, 0], [400, 40, 0], [0, 60, 0]])
    stream = RareClassSampling(pixels, seed=0, temperature=0.5, min_pixels=30, crop_ratio=0.5)
    # softmax((1 - 0.9) / 0.5, (1 - 0.1) / 0.5) = softmax(0.2, 1.8)
    np.testing.assert_allclose(stream.probabilities, [0.16798, 0.83202, 0.0], atol=1e-5)
    draws = [stream(i) for i in range(2000)]
    assert draws == [stream(i) for i in range(2000)]
    assert {(d.image, d.wanted.class_id) for d in draws if d.wanted} == {
        (0, 0),
        (1, 0),
        (1, 1),
        (2, 1),
    }
    assert all(d.wanted is not None and d.wanted.pixels == 15 for d in draws)
    share = np.mean([d.wanted.class_id == 1 for d in draws if d.wanted])
    assert abs(share - 0.832) < 0.03


def test_rare_class_sampling_needs_an_image_for_each_class() -> None:
    pixels = np.array([[500, 20], [400, 25]])
    with pytest.raises(ValueError, match=r"class id\(s\) \[1\].*MIN_PIXELS below 25"):
        RareClassSampling(pixels, seed=0, min_pixels=30)
    with pytest.raises(ValueError, match="empty"):
        RareClassSampling(np.zeros((2, 2)), seed=0)
