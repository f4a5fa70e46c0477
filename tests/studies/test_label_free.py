"""gbw_studies/label_free.py on runs written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from gbw_studies import label_free
from gbw_studies.label_free import Evaluations, read_evaluations, spearman, table_of


def test_spearman_of_ranks_with_ties() -> None:
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4.
    first, second = np.array([0.0, 5, 5, 9]), np.array([1.0, 2, 30, 40])
    assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert spearman(first, -first) == pytest.approx(-1)
    assert spearman(np.ones(4), second) is None and spearman(first[:1], second[:1]) is None


def test_a_table_by_hand() -> None:
    first = Evaluations(
        "a to b",
        np.array([10.0, 30, 20]),
        {"sure": np.array([-3.0, -2, -1]), "teacher": np.array([1.0, 3, 2])},
    )
    second = Evaluations("a to b", np.array([11.0, 12, 13]), {"sure": np.array([-9.0, -8, -7])})
    rows = table_of([first, second]).splitlines()[2:]
    # Within: 0.5 and 1. All: ranks 1 5 4 | 2 3 6 against 4 5 6 | 1 2 3 in part. Lost: 10 and 0.
    pooled = spearmanr([10, 30, 20, 11, 12, 13], [-3, -2, -1, -9, -8, -7]).statistic
    assert rows[0] == (
        f"| sure | 2, 6 | +0.75 (+0.50, +1.00) | {pooled:+.2f} | +1.00 | 5.0 ± 7.1, 10.0 |"
    )
    assert rows[1] == "| teacher | 1, 3 | +1.00 (+1.00, +1.00) | +1.00 | - | 0.0, 0.0 |"


def write_run(folder: Path, target: str, lines: list[dict]) -> Path:
    folder.mkdir()
    config = {"DATASETS": {"TRAIN": ["a"], "TARGET": [target]}, "EVAL": {"PROTOCOLS": ["16"]}}
    (folder / "results.json").write_text(json.dumps({"run": {"config": config}, "datasets": {}}))
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_folders_are_read_and_signs_turned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"iteration": 9, "mIoU_16": 20.0, "label_free/entropy": 30.0, "label_free/view_miou": 5.0},
        {"iteration": 14, "total_loss": 1.0},
        {"iteration": 19, "mIoU_16": 25.0, "label_free/entropy": 10.0, "label_free/view_miou": 4.0},
    ]
    run = write_run(tmp_path / "one", "b", lines)
    found = read_evaluations(run, None)
    assert found.problem == "a to b" and found.metric.tolist() == [20, 25]
    assert found.scores["entropy"].tolist() == [-30, -10]
    assert found.scores["view_miou"].tolist() == [5, 4]
    assert found.scores["later"].tolist() == [9, 19]
    other = write_run(tmp_path / "two", "c", lines)
    assert label_free.main([str(run), str(other)]) == 0
    out = capsys.readouterr().out
    assert "a to b\n" in out and "a to c\n" in out and "| entropy | 1, 2 | +1.00" in out
    assert label_free.main([str(run), "--metric", "PQ_16"]) == 2
    assert "no evaluation has both PQ_16" in capsys.readouterr().err
