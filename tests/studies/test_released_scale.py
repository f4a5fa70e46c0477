"""The simulated logits behind the table in studies/FINDINGS.md of the released scale."""

from __future__ import annotations

import sys

import pytest

from gbw_studies import released_scale as tool


def test_shares_margin_and_rarest_class() -> None:
    logits, labels = tool.simulate((1, 100, 100), 3, margin=30.0, right=0.8, seed=0)
    assert logits.shape == (1, 19, 100, 100) and labels.shape == (1, 100, 100)
    counts = labels.flatten().bincount(minlength=19)
    assert counts.argmin() == 17 and counts[17] == 3  # motorcycle
    assert counts[0].item() == pytest.approx(3690, abs=200)
    # A pixel is right by intent, or by one guess in 19.
    right = (logits.argmax(1) == labels).float().mean().item()
    assert right == pytest.approx(0.8 + 0.2 / 19, abs=0.02)


def test_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["released_scale.py", "--size", "1", "64", "128"])
    tool.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * len(tool.STAGES)
    assert {line.count("|") for line in lines} == {9}
    low, high = (float(x) for x in lines[2].split("|")[4].split(" - "))
    # Even on a crop this small, lambda 1 moves no weight by 5 %.
    assert 0.95 < low < 1 < high < 1.05
