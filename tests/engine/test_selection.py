"""The best checkpoint by a criterion, with labels or without."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from torch import nn

from gbw_d2.config import ConfigError
from gbw_d2.engine.checkpoint import Checkpointer
from gbw_d2.engine.selection import LABEL_FREE, ON_LABELS, BestCheckpoint


def make(folder: Path, criterion: str = "mIoU_16", done: int = 0) -> BestCheckpoint:
    return BestCheckpoint(criterion, Checkpointer(nn.Linear(1, 1), str(folder)), folder, done)


def test_the_greatest_value_is_kept_and_named_as_chosen_on_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gbw_d2"):
        best = make(tmp_path)
    assert "chooses a checkpoint on the labels" in caplog.text and best.name == ON_LABELS
    for iterations, value in ((10, 40.0), (20, 45.0), (30, 44.0)):
        best.add({"mIoU_16": value, "PQ_16": 1.0}, iterations)
    assert best.record["iterations"] == 20 and best.record["value"] == 45
    assert json.loads((tmp_path / f"model_{ON_LABELS}.json").read_text()) == best.record
    assert (tmp_path / f"model_{ON_LABELS}.pth").is_file()
    # --resume goes on from the last checkpoint, never from the best one.
    assert not (tmp_path / "last_checkpoint").exists()


@pytest.mark.parametrize(
    ("criterion", "chosen"), [("label_free/entropy", 20), ("label_free/view_miou", 30)]
)
def test_a_criterion_without_labels_knows_which_side_is_better(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, criterion: str, chosen: int
) -> None:
    with caplog.at_level(logging.WARNING, "gbw_d2"):
        best = make(tmp_path, criterion)
    for iterations, value in ((10, 40.0), (20, 35.0), (30, 44.0)):
        best.add({"mIoU_16": 50.0, criterion: value}, iterations)
    assert best.record["iterations"] == chosen and best.record["metrics"]["mIoU_16"] == 50
    assert (tmp_path / f"model_{LABEL_FREE}.pth").is_file() and not caplog.text


VALUES = {10: 40.0, 20: 45.0, 30: 44.0, 40: 46.0}


@pytest.mark.parametrize(
    ("killed_after", "resumed_at"), [(k, r) for k in VALUES for r in (0, 10, 20, 30) if r <= k]
)
def test_a_resumed_run_ends_with_the_choice_of_one_that_was_not(
    tmp_path: Path, killed_after: int, resumed_at: int
) -> None:
    whole = make(tmp_path / "whole")
    first = make(tmp_path / "cut")
    for iterations, value in VALUES.items():
        whole.add({"mIoU_16": value}, iterations)
        if iterations <= killed_after:
            first.add({"mIoU_16": value}, iterations)
    again = make(tmp_path / "cut", done=resumed_at)
    for iterations, value in VALUES.items():
        if iterations > resumed_at:
            again.add({"mIoU_16": value}, iterations)
    assert again.record == whole.record


def test_a_resumed_run_remembers_what_lies_before_it(tmp_path: Path) -> None:
    make(tmp_path).add({"mIoU_16": 45.0}, 20)
    assert make(tmp_path, done=20).record["value"] == 45
    assert make(tmp_path, done=10).record == {}  # resumed from before the best evaluation
    assert make(tmp_path, "PQ_16", done=20).record == {}


def test_off_unless_named_and_an_unknown_metric_is_told(tmp_path: Path) -> None:
    off = make(tmp_path, "")
    off.add({"mIoU_16": 45.0}, 10)
    assert off.record == {} and not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"is 'mIoU'; expected one of PQ_16, mIoU_16"):
        make(tmp_path, "mIoU").add({"mIoU_16": 45.0, "PQ_16": 1.0}, 10)


def test_what_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    best = make(tmp_path)
    for iterations, value in ((10, float("nan")), (20, 10.0), (30, float("nan")), (40, 50.0)):
        best.add({"mIoU_16": value}, iterations)
    assert (best.record["value"], best.record["iterations"]) == (50.0, 40)
    assert make(tmp_path, done=40).record == best.record
