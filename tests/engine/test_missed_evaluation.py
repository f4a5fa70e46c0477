"""An evaluation that a killed run did not finish is made when it is resumed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from gbw_d2.engine.hooks import is_due
from gbw_d2.engine.missed_evaluation import evaluate_if_missed

from detectron2.utils.events import JSONWriter

DUE = partial(is_due, period=10, ends=[25, 40])


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def resume(folder: Path, done: int) -> list[int]:
    """Resumes a run after so many iterations; returns after which ones it was evaluated."""
    evaluated: list[int] = []

    def evaluate(iterations: int) -> dict[str, float]:
        evaluated.append(iterations)
        return {"mIoU_16": 50.0}

    def writers() -> list[JSONWriter]:
        return [JSONWriter(str(folder / "metrics.json"))]

    evaluate_if_missed(folder, done, DUE, evaluate, writers)
    return evaluated


def test_when_an_evaluation_is_due() -> None:
    assert [done for done in range(1, 41) if DUE(done)] == [10, 20, 25, 30, 40]
    assert not is_due(10, 0, [25])


def test_only_a_missing_evaluation_is_made(tmp_path: Path) -> None:
    rows = [{"iteration": 9, "mIoU_16": 40.0}, {"iteration": 14, "loss_semantic": 1.0}]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert resume(tmp_path, 0) == [] and resume(tmp_path, 15) == []
    assert resume(tmp_path, 10) == [] and entries(tmp_path) == rows
    assert resume(tmp_path, 20) == [20]
    assert entries(tmp_path) == [*rows, {"iteration": 19, "mIoU_16": 50.0}]
    # It is there now.
    assert resume(tmp_path, 20) == []
    # At the end of a stage, of which the log has the losses alone.
    with (tmp_path / "metrics.json").open("a") as file:
        file.write(json.dumps({"iteration": 24, "loss_semantic": 0.9}) + "\n")
    assert resume(tmp_path, 25) == [25]


@pytest.mark.parametrize("done", [10, 25])
def test_a_run_that_was_killed_in_its_first_evaluation(tmp_path: Path, done: int) -> None:
    assert resume(tmp_path, done) == [done]
    assert entries(tmp_path) == [{"iteration": done - 1, "mIoU_16": 50.0}]
