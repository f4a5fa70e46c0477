"""The candidates of the upsampled benchmark run, and do what their names say. No timings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch


def test_report_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmark
    from benchmarks import upsampled

    monkeypatch.setattr(upsampled, "CASES", {"small": ((1, 5, 8, 8), (32, 48))})
    out = tmp_path / "b.json"
    arguments = ["upsampled", "--repetitions", "1", "--device", "cpu", "--out", str(out)]
    assert benchmark.main(arguments) == 0
    rows = json.loads(out.read_text())["results"]["small"]
    assert list(rows) == ["interpolate and F", "weights known", "weights of norms"]
    assert rows["interpolate and F"]["peak_ratio"] == 1.0


def test_weights_of_norms_are_those_of_the_scheme() -> None:
    from benchmarks.upsampled import gbw_norm_loss

    from gbw_d2.losses import GBWCrossEntropyLoss

    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 8, 8), torch.randint(0, 4, (2, 32, 48))
    up = torch.nn.functional.interpolate(logits, size=(32, 48), mode="bilinear")
    expected = GBWCrossEntropyLoss(5, lam=0.5)(up, labels)
    assert gbw_norm_loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)
