"""gbw_studies/plot_rounds.py on rounds written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gbw_studies import plot_rounds as tool


def write_round(folder: Path, number: int, shares: dict[str, float]) -> None:
    path = folder / f"pseudo_labels/round_{number}/round.json"
    path.parent.mkdir(parents=True)
    never = [name for name, share in shares.items() if share == 0]
    content = {
        "round": number,
        "policy": "class_balanced",
        "portion": 0.2 + 0.05 * number,
        "never_predicted": never,
        "classes": {name: {"kept_share": share} for name, share in shares.items()},
    }
    path.write_text(json.dumps(content))


def test_bars_are_the_kept_shares(tmp_path: Path) -> None:
    rounds = [(10, {"road": 0.3, "bus": 0.5}), (2, {"road": 0.2, "bus": 0.0})]
    for number, shares in rounds:
        write_round(tmp_path, number, shares)
    read = tool.read_rounds(tmp_path)
    assert [r["round"] for r in read] == [2, 10]
    axes = tool.draw([("cbst", read)]).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.2, 0.0, 0.3, 0.5]
    assert [t.get_text() for t in axes.texts] == ["never predicted: 2"]
    more = [{**read[0], "classes": {"road": {"kept_share": 2.84}, "bus": {"kept_share": 0.2}}}]
    panel = tool.draw([("cbst", read), ("more", more)]).axes[1]
    assert panel.get_ylim() == (0, 1) and panel.texts[0].get_text() == "2.8"
    assert tool.main([str(tmp_path)]) == 0
    assert (tmp_path / "plots/rounds.png").stat().st_size > 1000


def test_no_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([str(tmp_path)]) == 2
    assert "has no pseudo_labels/round_" in capsys.readouterr().err
