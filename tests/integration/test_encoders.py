"""A run on an encoder of timm: its file is asked for once, at the start."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from gbw_d2.engine.build import build_model
from gbw_d2.engine.train import evaluate_only, train
from gbw_d2.errors import UserError
from gbw_d2.inference.network import load_network


@pytest.fixture
def config(tiny_config: Any, toy_datasets: Path, tmp_path: Path) -> Any:
    """Returns a function: overrides -> config of two self-training steps on pvt_v2_b0."""

    def make(*overrides: Any) -> Any:
        return tiny_config(
            *("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "pvt_v2_b0"),
            *("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 0, "DATALOADER.NUM_WORKERS", 0),
            *("INPUT.CROP_SIZE", "(64, 64)", "SOLVER.LOG_PERIOD", 1, "SOLVER.BASE_LR", 1e-9),
            *("OUTPUT_DIR", str(tmp_path / "out"), "EVAL.PICTURES", 0, *overrides),
            name="toy/semantic_gbw",
        )

    return make


def test_a_file_is_read_at_the_start_and_never_again(
    config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "encoder.pth"
    cfg = config("MODEL.TIMM.PRETRAINED", str(file))
    encoder = build_model(cfg).backbone.encoder
    torch.nn.init.constant_(encoder.patch_embed.proj.bias, 7.0)
    torch.save({"state_dict": encoder.state_dict()}, file)
    (tmp_path / "out").mkdir()
    with caplog.at_level(logging.INFO):
        train(cfg, resume=False)
    assert "100.0% of its parameters; 0 missing" in caplog.text
    assert "Parameter groups:" in caplog.text
    final = tmp_path / "out/model_final.pth"
    network = torch.load(final, weights_only=True)["model"]
    # The rate is as good as none, so what was loaded is still there.
    assert torch.allclose(network["backbone.encoder.patch_embed.proj.bias"], torch.tensor(7.0))
    file.unlink()
    longer = config("MODEL.TIMM.PRETRAINED", str(file), "SOLVER.MAX_ITER", 3)
    assert train(longer, resume=True)
    assert evaluate_only(config("MODEL.TIMM.PRETRAINED", str(file), "MODEL.WEIGHTS", final), False)
    assert load_network(longer, str(final)).backbone.encoder.patch_embed.proj.bias[0] == 7.0
    with pytest.raises(UserError, match=r"PRETRAINED .*encoder.pth' does not exist; set it to"):
        train(config("MODEL.TIMM.PRETRAINED", str(file), "OUTPUT_DIR", tmp_path / "new"), False)


def test_the_three_kinds_of_pretrained_on_the_command_line(config: Any) -> None:
    for value, expected in (("True", True), ("False", False), ("a.pth", "a.pth")):
        found = config("MODEL.TIMM.PRETRAINED", value).MODEL.TIMM.PRETRAINED
        assert found == expected
