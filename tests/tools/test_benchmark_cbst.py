"""The candidates of the cbst benchmark run, and look at the same images. No timings."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch


def test_candidates_run(repository: Path) -> None:
    path = repository / "tools/benchmarks/cbst.py"
    spec = importlib.util.spec_from_file_location("benchmarks_cbst", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    config = tool.CASES["toy panoptic"][0]
    candidates = tool.labelling_candidates(config, 32, 64, 2, torch.device("cpu"))
    assert list(candidates) == ["inference", "threshold pass", "labelling pass"]
    for candidate in candidates.values():
        candidate()
    batches = list(tool._Images(2, 32, 64).batches(skip={"0"}))
    assert [sample["image_id"] for batch in batches for sample in batch] == ["1"]
