"""The table of mean and spread, on results written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gbw_studies import results_table as tool


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    def write(name: str, seed: int, weighting: str, miou: float, bus: float | None) -> str:
        folder = tmp_path / name
        folder.mkdir()
        content = {
            "metrics": {"mIoU_16": miou},
            "datasets": {"toy_val": {"mIoU_16": miou}},
            "per_class": {"16": {"road": {"IoU": 90.0}, "bus": {"IoU": bus}}},
            "run": {
                "seed": seed,
                "config": {"SEED": seed, "OUTPUT_DIR": name, "WEIGHTING": {"NAME": weighting}},
            },
        }
        (folder / "results.json").write_text(json.dumps(content))
        return str(folder)

    return [
        write("gbw_0", 0, "gbw", 40.0, 10.0),
        write("none_0", 0, "none", 30.0, None),
        write("gbw_1", 1, "gbw", 44.0, None),
    ]


def test_mean_and_spread_by_hand(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(runs) == 0
    lines = capsys.readouterr().out.splitlines()
    # The sample deviation of 40 and 44 is 2 * sqrt 2.
    assert lines[2] == "| gbw_0 | 0, 1 | 42.0 ± 2.8 |"
    assert lines[3] == "| none_0 | 0 | 30.0 |"


def test_classes(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([*runs, "--classes", "IoU"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ["| road | 90.0 ± 0.0 | 90.0 |", "| bus | 10.0 | - |"]


def test_unfinished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([str(tmp_path)]) == 2
    assert "no results.json" in capsys.readouterr().err


def test_recipes_in_folders_of_one_name_are_told_apart(
    runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    moved = []
    for run in map(Path, runs[:2]):
        folder = run.parent / run.name.removesuffix("_0") / "seed_0"
        folder.parent.mkdir()
        moved.append(str(run.rename(folder)))
    assert tool.main(moved) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| gbw/seed_0", "| none/seed_0"]
