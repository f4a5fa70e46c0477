"""Scores of a part of a test set are named partial, with the numbers of images."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gbw_d2.catalog import get_dataset
from gbw_d2.engine import run_data
from gbw_d2.engine.build import build_model
from gbw_d2.engine.evaluation import best_metric, evaluate, write_results
from gbw_d2.engine.run_data import RunData


@pytest.fixture
def data(tiny_config: Any, toy_datasets: Path, tmp_path: Path) -> RunData:
    return RunData(
        tiny_config(
            *("OUTPUT_DIR", tmp_path, "DATALOADER.NUM_WORKERS", 0, "EVAL.PICTURES", 0),
            *("EVAL.BEST_ON", "PQ_16"),
        )
    )


@pytest.mark.parametrize("missing", [0, 2])
def test_metrics_of_a_part(
    data: RunData,
    missing: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def spec_of(name: str) -> Any:
        spec = get_dataset(name)
        return replace(spec, count_images=lambda: 3 + missing)

    monkeypatch.setattr(run_data, "get_dataset", spec_of)
    with caplog.at_level(logging.INFO, "gbw_d2"):
        results = evaluate(data, build_model(data.cfg))
    write_results(data.cfg, results, 0, 0.0)
    written = json.loads((tmp_path / "results.json").read_text())
    end = "_partial" if missing else ""
    assert {f"PQ_16{end}", f"mIoU_16_void{end}", f"PQ_classes_13{end}"} <= set(written["metrics"])
    assert all(name.endswith("_partial") for name in written["metrics"]) is bool(missing)
    assert set(written["per_class"]) >= {f"16{end}", f"13_void{end}"}
    name = data.cfg.DATASETS.TEST[0]
    assert written["run"]["test_images"] == {name: {"scored": 3, "of": 3 + missing}}
    assert (f"'{name}' has 3 of 5 images with their labels" in caplog.text) is bool(missing)
    assert best_metric(data) == f"PQ_16{end}" and best_metric(data) in written["metrics"]
