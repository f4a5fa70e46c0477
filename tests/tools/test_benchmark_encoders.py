"""The encoders benchmark measures what it says. No timings are asserted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks import encoders

CPU = torch.device("cpu")
SMALL = (*encoders.KEYS, "INPUT.CROP_SIZE", "(64, 128)", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32")


@pytest.mark.parametrize(("name", "has_adapter"), [("vit_tiny_toy", True), ("resnet_tiny", False)])
def test_a_row(
    name: str, has_adapter: bool, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setattr(encoders, "KEYS", SMALL)

    def report(candidates, repetitions, device, memory):
        return {key: {"peak_mb": 8.0} for key in candidates}

    (rows,) = encoders.run_encoders(report, 1, CPU, [name]).values()
    row = rows[name]
    assert row["encoder_m"] > 0.1 and row["peak_mb"] == row["held_mb"] + 8
    assert (row["adapter_m"] > 0) == (row["adapter_share"] > 0) == has_adapter
    # Nothing is left of the names that the profiler goes by.
    backbone = encoders.encoder_step(name, CPU).model.backbone
    encoders.adapter_share(backbone, torch.zeros(1, 3, 64, 128), CPU)
    assert "forward_intermediates" not in vars(getattr(backbone, "encoder", backbone))
