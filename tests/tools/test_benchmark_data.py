"""Candidates of the benchmarks of files, samples and growth run, and do what their names say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmarks import full_size, growth, pq_files, versions
from benchmarks.evaluation import panoptic_pair

from gbw_d2.data.formats.files import read_ids
from gbw_d2.evaluation import PanopticQuality
from gbw_d2.evaluation.evaluators import panoptic_categories
from gbw_d2.evaluation.panoptic_files import score_files
from gbw_d2.label_spaces import CITYSCAPES_19
from gbw_d2.toyworld.settings import ToyWorldSettings


def test_files_hold_the_pair_that_arrays_score(tmp_path: Path) -> None:
    truth, guess = panoptic_pair(0.03, (32, 64), 6)
    pq_files.write_pair(tmp_path / "one", truth, guess, copies=2)
    np.testing.assert_array_equal(read_ids(tmp_path / "one/gt/1.png"), truth[0])
    quality = PanopticQuality(panoptic_categories(CITYSCAPES_19))
    for _ in range(2):
        quality.update(*guess, *truth)
    found = score_files(tmp_path / "one/gt.json", tmp_path / "one/pred.json")
    np.testing.assert_array_equal(found.state, quality.state)
    candidates = pq_files.file_candidates(tmp_path / "one")
    assert {"OpenCV, bare", "panopticapi", "score_files"} < set(candidates)
    candidates |= pq_files.set_candidates(tmp_path / "one")
    candidates |= pq_files.matrix_candidates(0.0, (32, 64))
    for candidate in candidates.values():
        candidate()


def test_samples_of_a_small_toy_world(tmp_path: Path) -> None:
    settings = ToyWorldSettings(
        image_size=(64, 128), num_source=1, num_target_train=1, num_target_val=1
    )
    candidates = full_size.full_size_candidates(tmp_path / "toy", settings)
    assert {"source sample", "source sample, cached", "target sample, cached"} < candidates.keys()
    for candidate in candidates.values():
        candidate()
    # An image and a label.
    assert len(list((tmp_path / "toy_decoded").rglob("*.decoded"))) == 2


def test_growth_measures_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "SIZES", ((8, 16), (16, 32)))
    monkeypatch.setattr(
        growth,
        "cases",
        lambda: {
            "pixels": {
                f"{r}x{c}": growth.losses(2, (r, c)) | growth.of_maps(3, (r, c))
                for r, c in growth.SIZES
            },
            "classes": {str(n): growth.losses(n, (8, 16)) for n in (2, 254)},
        },
    )

    def measure(candidates: dict, repetitions: int, device: torch.device) -> dict:
        for candidate in candidates.values():
            candidate()
        return {name: [0.002, 0.001] for name in candidates}

    tables = growth.run_growth(measure, 1, tmp_path / "growth.png")
    assert tables["pixels"]["16x32"] == dict.fromkeys(
        ("loss", "loss, norms", "PQ", "mIoU", "targets"), 1.0
    )
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_losses_of_two_versions_are_compared_by_name() -> None:
    some = [{"loss_a": 1.0, "loss_b": 2.0}, {"loss_a": 3.0}]
    others = [{"loss_a": 1.0, "old_b": 5.0}, {"loss_a": 2.0}]
    assert versions._largest_difference(some, others) == 0.5
    assert np.isnan(versions._largest_difference([{"a": 1.0}], [{"b": 1.0}]))


def test_each_loss_of_a_step_is_read() -> None:
    class Step:
        def __init__(self) -> None:
            self.strategy = SimpleNamespace(
                training_losses=lambda *_: iter([{"a": torch.ones(())}])
            )

        def __call__(self) -> None:
            for _ in self.strategy.training_losses():
                pass

    assert versions._losses(Step()) == {"a": 1.0}
    assert "benchmarks.versions" in sys.modules
