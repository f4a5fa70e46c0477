"""The candidates of the mask2former benchmark compute the same; memory is bounded. No timings."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import mask2former

    monkeypatch.setattr(mask2former, "SIZE", (64, 128))


def test_both_attend_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import mask2former

    outputs: list[torch.Tensor] = []
    monkeypatch.setattr(mask2former, "_both_ways", lambda output: outputs.append(output()))
    mask2former.attention_candidates(torch.device("cpu"))
    theirs, ours = outputs
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_steps_run_and_inference_is_within_300_mb() -> None:
    import benchmark
    from benchmarks import mask2former

    device = torch.device("cpu")
    for step in mask2former.step_candidates(device).values():
        step()
    wide = mask2former.inference_candidates(device)["200 queries"]
    # Beside the outputs of the network: 19 maps of logits are 152 MB of it.
    assert benchmark.peak_extra_mb(wide, device) <= 300
