"""Weights of a run: the last checkpoint of its folder, the student or the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gbw_d2.engine.build import build_model
from gbw_d2.engine.checkpoint import Checkpointer, CheckpointError
from gbw_d2.inference.network import load_network


def weights(model: torch.nn.Module) -> torch.Tensor:
    return next(model.sem_seg_head.parameters()).detach()


def test_student_and_teacher_of_a_run(tiny_config: Any, tmp_path: Path) -> None:
    cfg = tiny_config()
    student, teacher = build_model(cfg), build_model(cfg)
    assert not torch.equal(weights(student), weights(teacher))
    Checkpointer(student, str(tmp_path), teacher=teacher).save("model_0000001")
    for which, network in (("student", student), ("teacher", teacher)):
        for path in (tmp_path, tmp_path / "model_0000001.pth"):
            loaded = load_network(cfg, str(path), which)
            assert torch.equal(weights(loaded), weights(network)) and not loaded.training


def test_what_is_missing_is_told(tiny_config: Any, tmp_path: Path) -> None:
    cfg = tiny_config()
    Checkpointer(build_model(cfg), str(tmp_path)).save("alone")
    with pytest.raises(CheckpointError, match="teacher"):
        load_network(cfg, str(tmp_path), "teacher")
    with pytest.raises(CheckpointError, match="no weights"):
        load_network(cfg, "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="last checkpoint"):
        load_network(cfg, str(tmp_path / "empty"))
