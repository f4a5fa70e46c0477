"""`train_net.py --check` finds what training would stop at, and trains nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from gbw_d2.engine.checkpoint import CheckpointError
from gbw_d2.engine.distributed import default_argument_parser
from gbw_d2.engine.train import check
from gbw_d2.errors import UserError


def small(tiny_config: Any, folder: Path, *more: Any) -> Any:
    return tiny_config(
        *("INPUT.CROP_SIZE", "(48, 64)", "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", folder),
        *("SOLVER.IMS_PER_BATCH", 1, *more),
    )


def test_all_is_well(
    tiny_config: Any, toy_datasets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "gbw_d2"):
        assert check(small(tiny_config, tmp_path), False) == {}
    assert "training would begin at iteration 0" in caplog.text
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        (("MODEL.WEIGHTS", "none.pth"), CheckpointError, "do not exist"),
        (("EVAL.WEIGHTS", "professor"), UserError, "EVAL.WEIGHTS"),
    ],
)
def test_what_is_found(
    tiny_config: Any, toy_datasets: Path, tmp_path: Path, more: Any, error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        check(small(tiny_config, tmp_path, *more), False)


def test_a_label_of_the_test_set(tiny_config: Any, toy_datasets: Path, tmp_path: Path) -> None:
    cfg = small(tiny_config, tmp_path)
    check(cfg, False)
    label = sorted(toy_datasets.rglob("gtFine/val/*/*_labelTrainIds.png"))[0]
    whole = label.read_bytes()
    try:
        label.write_bytes(whole[:-20])
        with pytest.raises(UserError, match="truncated"):
            check(cfg, False)
    finally:
        label.write_bytes(whole)


def test_the_option() -> None:
    parser = default_argument_parser("")
    assert parser.parse_args(["--check"]).check
    assert not parser.parse_args([]).check
