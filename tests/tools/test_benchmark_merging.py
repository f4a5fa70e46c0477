"""The candidates of the merging benchmark run, and compare what they say. No timings."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch


def test_candidates_run_on_detections_that_overlap(repository: Path) -> None:
    path = repository / "tools/benchmarks/merging.py"
    spec = importlib.util.spec_from_file_location("benchmarks_merging", path)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    size, cpu = (64, 128), torch.device("cpu")
    found = tool.street_detections(12, size, cpu)
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    # It raises where the maps differ.
    candidates = tool.merging_candidates(cpu, size, 12)
    assert list(candidates) == ["pasted already", "with pasting", "score_order", "edaps"]
    for candidate in candidates.values():
        candidate()
