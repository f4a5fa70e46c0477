"""What a run reads is listed and counted once per process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats import cityscapes, synthia
from gbw_d2.data.statistics import image_class_counts
from gbw_d2.engine import run_data
from gbw_d2.engine.run_data import RunData
from gbw_d2.engine.train import train

LISTERS = (
    (synthia, "load_synthia"),
    (cityscapes, "load_images"),
    (cityscapes, "load_semantic"),
    (cityscapes, "load_panoptic"),
)


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the listings of folders, by whatever way they are asked for."""
    found: Counter[str] = Counter()

    def counted(name: str, load: Any) -> Any:
        def listed(root: Path, *rest: Any) -> Any:
            found[" ".join([name, root.name, *map(str, rest[:1])])] += 1
            return load(root, *rest)

        return listed

    for module, name in LISTERS:
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return found


def test_three_rounds_of_cbst_list_each_dataset_once(
    tiny_config: Any, toy_datasets: Path, tmp_path: Path, listings: Counter[str]
) -> None:
    cfg = tiny_config(
        *("UDA.CBST.ROUNDS", 3, "SOLVER.MAX_ITER", 8, "TEST.EVAL_PERIOD", 2),
        *("UDA.CBST.SPATIAL_PRIOR", True, "WEIGHTING.NAME", "inverse_frequency"),
        *("INPUT.CROP_SIZE", "(48, 64)", "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", tmp_path),
        name="toy/semantic_source_only uda/cbst",
    )
    train(cfg, resume=False)
    assert len(list((tmp_path / "pseudo_labels").iterdir())) == 3
    assert listings == {
        "load_synthia synthia": 1,
        "load_images cityscapes train": 1,
        "load_images cityscapes val": 1,  # by load_semantic
        "load_semantic cityscapes val": 1,
    }


def test_nothing_is_read_before_it_is_asked_for(
    tiny_config: Any, toy_datasets: Path, listings: Counter[str]
) -> None:
    data = RunData(tiny_config("WEIGHTING.NAME", "none"))
    data.prepare(training=True)
    assert data.weighting_counts is None
    assert not listings


def test_counts_are_those_of_the_labels_and_are_kept(
    tiny_config: Any, toy_datasets: Path, listings: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = RunData(tiny_config("WEIGHTING.NAME", "inverse_frequency"))
    data.prepare(training=True)
    spec = get_dataset(data.cfg.DATASETS.TRAIN[0])
    learned = spec.in_space(data.space)
    assert learned.read_semantic is not None
    labels = [learned.read_semantic(record) for record in spec.load()]
    expected = [np.bincount(label.ravel(), minlength=256)[:16] for label in labels]
    np.testing.assert_array_equal(data.source_counts, expected)
    asked = []
    monkeypatch.setattr(run_data, "image_class_counts", lambda *a, **k: asked.append(a))
    assert torch.equal(data.class_counts, torch.as_tensor(np.sum(expected, 0)))
    counts = data.weighting_counts
    assert counts is not None and torch.equal(counts, data.class_counts)
    assert not asked and listings["load_synthia synthia"] == 2  # once here
    assert image_class_counts(spec).shape[0] == len(labels)
