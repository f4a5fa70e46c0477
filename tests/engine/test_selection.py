"""The best checkpoint by the target's labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from gbw_d2.config import ConfigError
from gbw_d2.engine.checkpoint import Checkpointer
from gbw_d2.engine.selection import NAME, BestOnTargetLabels


def make(folder: Path, metric: str = "mIoU_16", done: int = 0) -> BestOnTargetLabels:
    return BestOnTargetLabels(metric, Checkpointer(nn.Linear(1, 1), str(folder)), folder, done)


def test_the_greatest_value_is_kept_and_named(tmp_path: Path) -> None:
    best = make(tmp_path)
    for iterations, value in ((10, 40.0), (20, 45.0), (30, 44.0)):
        best.add({"mIoU_16": value, "PQ_16": 1.0}, iterations)
    assert best.record["iterations"] == 20 and best.record["value"] == 45
    assert json.loads((tmp_path / f"{NAME}.json").read_text()) == best.record
    assert (tmp_path / f"{NAME}.pth").is_file()
    # --resume goes on from the last checkpoint, never from the best one.
    assert not (tmp_path / "last_checkpoint").exists()


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
