"""The candidates of the evaluation benchmarks run, and do what their names say. No timings."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import panopticapi.evaluation as panopticapi
import pytest
import torch


@pytest.fixture(scope="module")
def tool(repository: Path) -> ModuleType:
    path = repository / "tools/benchmarks/evaluation.py"
    spec = importlib.util.spec_from_file_location("benchmarks_evaluation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("speckle", [0.0, 0.03])
def test_pq_candidates_score_the_same_arrays(tool: ModuleType, speckle: float) -> None:
    candidates = tool.evaluation_candidates(speckle, (64, 128), 12)
    seen = []
    stat = panopticapi.PQStat

    def keep() -> panopticapi.PQStat:
        seen.append(stat())
        return seen[-1]

    with mock.patch.object(panopticapi, "PQStat", keep):
        candidates["panopticapi"]()
    quality = tool.PanopticQuality(tool.panoptic_categories(tool.CITYSCAPES_19))
    gt, pred = tool.panoptic_pair(speckle, (64, 128), 12)
    quality.update(*pred, *gt)
    for category, row in quality.compute()["per_class"].items():
        theirs = seen[0][category]
        assert (row["TP"], row["FP"], row["FN"]) == (theirs.tp, theirs.fp, theirs.fn)
    assert sum(row.tp for row in seen[0].pq_per_cat.values()) > 0
    candidates["PanopticQuality"]()


def test_speckle_is_the_share_of_moved_pixels(tool: ModuleType) -> None:
    smooth, _ = tool.panoptic_pair(0.0, (64, 128), 12)
    speckled, _ = tool.panoptic_pair(0.03, (64, 128), 12)
    assert 0.02 < np.mean(smooth[0] != speckled[0]) < 0.035


def test_both_runs_fill_their_tables(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def report(candidates: dict, repetitions: int, device: torch.device, memory: bool) -> dict:
        for candidate in candidates.values():
            candidate()
        return {name: {"ratio": float(repetitions)} for name in candidates}

    make_pq, make_maps = tool.evaluation_candidates, tool.postprocessing_candidates
    monkeypatch.setattr(tool, "evaluation_candidates", lambda s: make_pq(s, (32, 64), 6))
    monkeypatch.setattr(tool, "postprocessing_candidates", lambda d, _: make_maps(d, (64, 96), 9))
    assert list(tool.run_evaluation(report, 2)) == ["PQ, 0% speckle", "PQ, 3% speckle"]
    rows = tool.run_postprocessing(report, 9, torch.device("cpu"))
    assert rows["1024x2048"] == {
        "Detectron2": {"ratio": 3.0},
        "panoptic_from_centers": {"ratio": 3.0},
    }
