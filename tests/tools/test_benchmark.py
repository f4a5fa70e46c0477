"""The benchmark's parts: what it compares is what it says. No timings are asserted."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from gbw_d2.losses import ClassWeightedCrossEntropy
from gbw_d2.weighting import build_scheme


@pytest.fixture(scope="module")
def tool(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark", repository / "tools/benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_released_formula_is_gbw_released(tool: ModuleType) -> None:
    logits, labels = tool.random_batch((2, 5, 16, 16), torch.device("cpu"))
    ours = ClassWeightedCrossEntropy(build_scheme("gbw_released", 5))
    released = tool.released_loss(logits, labels).item()
    assert released == pytest.approx(ours(logits, labels).item(), rel=1e-5)
    plain = F.cross_entropy(logits, labels, ignore_index=255, reduction="none").mean()
    assert released != pytest.approx(plain.item(), rel=1e-7)


def test_report_and_file(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "SHAPES", ((1, 5, 64, 64),))
    out = tmp_path / "b.json"
    assert tool.main(["weighting", "--repetitions", "2", "--device", "cpu", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["results"]["1x5x64x64"]
    assert list(rows) == [
        *("F.cross_entropy", "none", "fixed, logits adjusted"),
        *("gbw_norm", "released formula"),
    ]
    assert rows["F.cross_entropy"]["ratio"] == 1.0


def test_peak_memory_sees_an_allocation(tool: ModuleType) -> None:
    def candidate() -> None:
        for _ in range(3):  # 16 MB, and 16 more while the sum is there
            (torch.ones(2**22) + 1).sum()

    assert tool.peak_extra_mb(candidate, torch.device("cpu")) == pytest.approx(32, abs=0.1)


def test_share_of_a_step_is_of_the_losses_that_it_computes(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("detectron2")
    batch = tool.toy_batch(1, 64, 64)
    monkeypatch.setattr("benchmarks.toy_step.toy_batch", lambda *_: batch)
    tables = tool.run_step(1, torch.device("cpu"))
    steps, losses = tables["toy step"], tables["its semantic loss"]
    assert list(steps) == list(losses) == ["none", "gbw_norm", "gbw_hindrance", "gbw"]
    assert losses["none"]["share"] == 0
    expected = 100 * (losses["gbw"]["ms"] - losses["none"]["ms"]) / steps["none"]["ms"]
    assert losses["gbw"]["share"] == pytest.approx(expected)


def test_peak_of_cross_entropy_counts_its_gradient(tool: ModuleType) -> None:
    # Saved log-softmax, gradient of the loss's input and gradient of the logits: 3 x 32 MB.
    candidates = tool.loss_candidates((1, 32, 512, 512), torch.device("cpu"))
    assert tool.peak_extra_mb(candidates["F.cross_entropy"], torch.device("cpu")) > 80


def test_strategies_beside_their_parts(tool: ModuleType) -> None:
    pytest.importorskip("detectron2")
    from benchmarks.strategies import NAMES, strategy_candidates

    from gbw_d2.uda import STRATEGIES

    assert set(NAMES) <= set(STRATEGIES)
    batch = tool.toy_batch(1, 32, 64)
    candidates = strategy_candidates("self_training", torch.device("cpu"), lambda *_: batch)
    assert list(candidates) == ["bare parts", "training step"]
    for candidate in candidates.values():
        candidate()
