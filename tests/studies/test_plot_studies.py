"""gbw_studies/plot_studies.py on runs written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gbw_d2.errors import UserError
from gbw_studies import plot_studies
from gbw_studies.results.comparison import Difference
from gbw_studies.results.rows import read_results

STUDY = {
    "title": "Study T: by hand",
    "question": "Does it add up?",
    "recipes": {"taught": {"config": "configs/a.yaml"}},
    "arms": {"none": {"WEIGHTING.NAME": "none"}, "gbw": {}, "static": {}, "focal": {}},
    "baseline": "none",
    "proposed": ["gbw"],
    "rivals": ["static", "focal"],
    "rare": ["bus"],
    "rungs": [{"seeds": [0, 1]}],
}
MIOU = {
    **{("none", 0): 40.0, ("none", 1): 50.0, ("focal", 0): 99.0},
    **{("gbw", 0): 41.0, ("gbw", 1): 54.0, ("static", 1): 47.0},
}


def row(arm: str, seed: int, miou: float) -> dict[str, Any]:
    """The bus has IoU miou / 2 and recall 30; on the second test set mIoU is 1 whatever the arm."""
    classes = {"bus": {"IoU": miou / 2, "recall": 30.0}}
    scores = {
        "first_val": {"metrics": {"mIoU_16": miou}, "classes": classes},
        "second_val": {"metrics": {"mIoU_16": 1.0}, "classes": classes},
    }
    return {
        **{"recipe": "taught", "arm": arm, "seed": seed, "config": "0" * 12, "package": "a" * 12},
        **{"iterations": 100, "wall_seconds": 9.0, "step_seconds": 0.2, "peak_memory_mb": 1.0},
        **{"torch": "2.15.0", "device": "cpu", "threads": 1, "scores": scores},
    }


def write(folder: Path, **changed: Any) -> Path:
    path = folder / "hand.yaml"
    path.with_suffix("").mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({**STUDY, **changed}))
    lines = [json.dumps(row(*name, miou)) for name, miou in MIOU.items()]
    (path.with_suffix("") / "results.jsonl").write_text("\n".join(lines) + "\n")
    return path


def test_gains_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path), tmp_path / "gains.png"
    assert plot_studies.main([str(path), "--without", "second_val", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "| study | recipe, test set | pairs | Δ mIoU | Δ rare IoU | Δ rare recall |"
    )
    # gbw: (41 - 40 + 54 - 50) / 2; static with seed 1 alone: 47 - 50. Not focal, the second rival.
    assert lines[2:] == [
        "| hand.yaml | taught, first_val | 2 / 1 | +2.5 / -3.0 | +1.2 / -1.5 | +0.0 / +0.0 |"
    ]
    assert out.read_bytes().startswith(b"\x89PNG")


def test_dots_are_seeds_and_bars_their_means(tmp_path: Path) -> None:
    figure = plot_studies.draw([plot_studies.group(read_results(write(tmp_path)))])
    axes = figure.axes[0]
    drawn = [
        (line.get_marker(), line.get_color(), round(line.get_ydata()[0], 3), [*line.get_xdata()])
        for line in axes.lines
        if line.get_marker() in ("o", "|")
    ]
    high, low, blue = -0.175, 0.175, plot_studies.PROPOSED_COLORS[0]
    # On the second test set mIoU is 1 in all runs.
    assert drawn == [
        ("o", blue, high, [1.0, 4.0]),
        ("|", blue, high, [2.5]),
        ("o", plot_studies.ORANGE, low, [-3.0]),
        ("|", plot_studies.ORANGE, low, [-3.0]),
        ("o", blue, 1 + high, [0.0, 0.0]),
        ("|", blue, 1 + high, [0.0]),
        ("o", plot_studies.ORANGE, 1 + low, [0.0]),
        ("|", plot_studies.ORANGE, 1 + low, [0.0]),
    ]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["taught, first_val  (2 / 1)", "taught, second_val  (2 / 1)"]


def test_every_proposed_arm_is_drawn(tmp_path: Path) -> None:
    one = plot_studies.group(
        read_results(write(tmp_path, proposed=["gbw", "focal"], rivals=["static"]))
    )
    # focal with seed 0 alone: 99 - 40.
    assert one.arms == ("gbw", "focal", "static") and one.settings[0].pairs == "2 / 1 / 1"
    assert (
        plot_studies.markdown([one])
        .splitlines()[2]
        .startswith("| hand.yaml | taught, first_val | 2 / 1 / 1 | +2.5 / +59.0 / -3.0 |")
    )
    assert one.offsets == pytest.approx([-0.7 / 3, 0.0, 0.7 / 3]) and len(set(one.colors)) == 3
    figure = plot_studies.draw([one, plot_studies.group(read_results(write(tmp_path)))])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["gbw", "static", "focal"]


def test_a_study_without_a_measure_keeps_its_place(tmp_path: Path) -> None:
    plain = plot_studies.group(read_results(write(tmp_path)), ["second_val"])
    gain = Difference({("taught", 0): -0.04}, None)
    panoptic = plot_studies.Setting("all, val", ({"mIoU": gain, "PQ": gain}, {}))
    groups = [plain, plot_studies.Group("b.yaml", "B", ("gbw", "static"), (panoptic,))]
    rows = plot_studies.markdown(groups).splitlines()
    assert rows[0].endswith("| Δ rare recall | Δ PQ |") and rows[2].endswith("| - / - |")
    assert rows[3] == "| b.yaml | all, val | 1 / 0 | +0.0 / - | - / - | - / - | +0.0 / - |"
    grid = plot_studies.draw(groups).axes
    assert [bool(axes.lines) for axes in grid] == [
        *(True, True, True, False),
        *(True, False, False, True),
    ]
    assert grid[4].get_yticklabels()[0].get_text() == "all, val  (1 / 0)"


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs 'proposed' and 'rivals'"):
        plot_studies.group(read_results(write(tmp_path, rivals=[])))
    many = {f"arm{i}": {} for i in range(len(plot_studies.PROPOSED_COLORS) + 1)}
    arms = {"none": {}, "static": {}, **many}
    results = read_results(write(tmp_path, arms=arms, rivals=["static"], proposed=[*many]))
    with pytest.raises(UserError, match="propose fewer"):
        plot_studies.group(results)
    results = read_results(write(tmp_path))
    message = r"no proposed arm \(gbw\) shares .* with 'none' outside first_val, second_val"
    with pytest.raises(UserError, match=message):
        plot_studies.group(results, ["first_val", "second_val"])


def test_a_test_set_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gains.png"
    assert (
        plot_studies.main([str(write(tmp_path)), "--without", "thrid_val", "--out", str(out)]) == 2
    )
    said = capsys.readouterr().err
    assert "no run is scored on thrid_val (there are: first_val, second_val)" in said
    assert not out.exists()
