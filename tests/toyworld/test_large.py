"""The larger toy world: its scenes grow with the image; one folder holds both domains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from gbw_d2.catalog import DATASETS, get_dataset
from gbw_d2.toyworld import SPLITS, ToyWorldSettings, render
from gbw_d2.toyworld.layouts import LAYOUTS, check_layout, write_layout

LARGE = LAYOUTS.get("large")


def test_its_size_and_its_splits() -> None:
    settings = LARGE.settings
    assert settings.image_size == (256, 512) and settings.seed != ToyWorldSettings().seed
    counts = {pair: settings.num_images(*pair) for pair in LARGE.splits}
    assert counts == {
        **{("source", "train"): 2000, ("source", "val"): 200},
        **{("target", "train"): 2000, ("target", "val"): 200},
    }
    assert len(LARGE.jobs()) == 4400


@pytest.mark.parametrize("domain", ["source", "target"])
def test_objects_grow_with_the_image(domain: str) -> None:
    """The same key at half the size is the same scene: most pixels have the same class."""
    half = replace(LARGE.settings, image_size=(128, 256))
    for index in range(3):
        large = render(LARGE.settings, domain, "train", index)
        small = render(half, domain, "train", index)
        size = large.class_map.shape[::-1]
        grown = cv2.resize(small.class_map, size, interpolation=cv2.INTER_NEAREST)
        assert (grown == large.class_map).mean() > 0.95
        # As many instances, but for those that are too small to be seen in the small one.
        assert 0 <= large.instance_map.max() - small.instance_map.max() <= 3


def test_it_is_read_as_it_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    counts = {"num_source": 3, "num_target_train": 3, "num_target_val": 2, "num_source_val": 2}
    layout = replace(LARGE, settings=replace(LARGE.settings, image_size=(64, 128), **counts))
    write_layout(tmp_path / "toy_large", layout, workers=1)
    check_layout(tmp_path / "toy_large", layout)
    assert len(get_dataset("toy_large_cityscapes_unlabelled_train").load()) == 3
    for domain, name in (("source", "synthia"), ("target", "cityscapes")):
        for split in SPLITS[domain]:
            for kind in ("semantic", "panoptic"):
                spec = get_dataset(f"toy_large_{name}_{kind}_{split}")
                records = spec.load()
                assert len(records) == layout.settings.num_images(domain, split)
                (record,) = [r for r in records if "000001" in r["image_id"]]
                drawn = render(layout.settings, domain, split, 1)
                np.testing.assert_array_equal(spec.read_semantic(record), drawn.class_map)
                assert (spec.read_panoptic is None) == (kind == "semantic")


def test_it_is_made_at_first_use() -> None:
    names = [name for name in DATASETS if name.startswith("toy_large_")]
    assert len(names) == 4 + 5
    assert all(get_dataset(name).prepare is not None for name in names)
