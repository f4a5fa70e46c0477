"""`train_net.py --check` finds what training would stop at, and trains nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from gbw_d2.catalog import get_dataset
from gbw_d2.engine.build import build_model
from gbw_d2.engine.checkpoint import CheckpointError
from gbw_d2.engine.distributed import default_argument_parser
from gbw_d2.engine.run_data import RunData
from gbw_d2.engine.setup import setup
from gbw_d2.engine.train import check, evaluate_only, train
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
    assert "16 classes: road, sidewalk" in caplog.text
    assert "things: person, rider, car, bus, motorcycle, bicycle" in caplog.text
    for key, name in (
        ("TRAIN", "toy_synthia_panoptic_train"),
        ("TARGET", "toy_cityscapes_unlabelled_train"),
        ("TEST", "toy_cityscapes_panoptic_val"),
    ):
        records = get_dataset(name).load()
        size = f"{records[0]['height']} x {records[0]['width']}"
        said = f"DATASETS.{key} '{name}': {len(records)} images of {size} pixels"
        assert said in caplog.messages
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        (("MODEL.WEIGHTS", "none.pth"), CheckpointError, "do not exist"),
        (("EVAL.WEIGHTS", "professor"), UserError, "EVAL.WEIGHTS"),
        (("INPUT.TEST_SIZE", "(1, 1)"), UserError, r"TEST_SIZE \(1, 1\).*more than 1 value"),
        (("INPUT.TEST_SIZE", "(2000000, 2000000)"), UserError, "TEST_SIZE.*Insufficient memory"),
        (("EVAL.BEST_ON", "mIoU_6"), UserError, "did you mean mIoU_1"),
        (("EVAL.BEST_ON", "AP_16"), UserError, "no metric of the first test set"),
        (("EVAL.BEST_ON", "PQ_16", "DATASETS.TEST", "()"), UserError, "is empty"),
        (("EVAL.BEST_ON", "label_free/entropi"), UserError, "did you mean label_free/entropy"),
        (("EVAL.BEST_ON", "label_free/entropy"), UserError, "LABEL_FREE_IMAGES.*that is 0"),
        (
            (*("EVAL.LABEL_FREE_IMAGES", 2, "UDA.NAME", "source_only", "DATASETS.TARGET", "()"),),
            UserError,
            "LABEL_FREE_IMAGES needs target images",
        ),
    ],
)
def test_what_is_found(
    tiny_config: Any, toy_datasets: Path, tmp_path: Path, more: Any, error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        check(small(tiny_config, tmp_path, *more), False)


def test_burn_in_with_the_weights_of_an_encoder(
    tiny_config: Any, toy_datasets: Path, tmp_path: Path
) -> None:
    words = ("UDA.NAME", "mask_teacher", "UDA.MASK_TEACHER.BURN_IN_SHARE", 0.25)
    file = tmp_path / "encoder.pth"
    cfg = small(tiny_config, tmp_path / "run", *words, "MODEL.WEIGHTS", file)
    torch.save({"model": build_model(cfg).backbone.state_dict()}, file)
    with pytest.raises(CheckpointError, match=r"encoder.pth': .* not taken from it.*BURN_IN_SHARE"):
        check(cfg, False)


def test_a_label_of_the_test_set(tiny_config: Any, toy_datasets: Path, tmp_path: Path) -> None:
    cfg = small(tiny_config, tmp_path)
    check(cfg, False)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    label = sorted(toy_datasets.rglob("gtFine/val/*/*_labelTrainIds.png"))[0]
    whole = label.read_bytes()
    try:
        label.write_bytes(whole[:-20])
        for job in (check, train):
            with pytest.raises(UserError, match="truncated"):
                job(cfg, False)
        assert sorted(p.name for p in tmp_path.rglob("*")) == before  # no step was trained
    finally:
        label.write_bytes(whole)


def test_eval_only_asks_for_its_weights_before_it_makes_data(
    tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small(tiny_config, tmp_path, "MODEL.WEIGHTS", tmp_path / "none.pth")
    monkeypatch.setattr(RunData, "prepare", lambda *_, **__: pytest.fail("data were made"))
    with pytest.raises(CheckpointError, match="do not exist"):
        evaluate_only(cfg, False)
    toy = ("--config-file", "configs/toy/panoptic_gbw.yaml")
    parse = default_argument_parser("").parse_args
    for words, message in (
        (("--eval-only", "OUTPUT_DIR", "none"), "--eval-only has no weights"),
        (("MODEL.WEIGHTS", "none.pth", "OUTPUT_DIR", "none"), "'none.pth' do not exist"),
    ):
        with pytest.raises(CheckpointError, match=message):
            setup(parse([*toy, *words]))


def test_the_option() -> None:
    parser = default_argument_parser("")
    assert parser.parse_args(["--check"]).check
    assert not parser.parse_args([]).check
