"""Weights of a run: the last checkpoint of its folder, the student or the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from own_data import class_names, write_own_data

from gbw_d2.config import load_config
from gbw_d2.data.spec import DatasetError
from gbw_d2.engine.build import build_model
from gbw_d2.engine.checkpoint import Checkpointer, CheckpointError
from gbw_d2.inference.network import load_network, resolve_for


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


def test_the_description_of_the_training_data_is_not_needed(
    tiny_config: Any, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    description = write_own_data(tmp_path / "own", 5, images=1)
    own = [
        *("DATASETS.LABEL_SPACE", "own/data.yaml", "DATASETS.TRAIN", "('own/data.yaml:source',)"),
        *("DATASETS.TARGET", "('own/data.yaml:target',)"),
        *("DATASETS.TEST", "('own/data.yaml:val',)"),
    ]
    trained = tiny_config(*own)
    Checkpointer(build_model(trained), str(tmp_path / "run")).save("model_final")
    (tmp_path / "config.yaml").write_text(trained.dump())
    description.unlink()
    for weights_of in (tmp_path / "run", tmp_path / "run" / "model_final.pth"):
        cfg = load_config(str(tmp_path / "config.yaml"), [])
        resolve_for(cfg, "cpu", str(weights_of))
        network = load_network(cfg, str(weights_of))
        assert list(network.label_space.class_names) == class_names(5)
    # Nothing else would know the classes: without weights, the file is asked for.
    with pytest.raises(DatasetError, match=r"own/data\.yaml"):
        resolve_for(load_config(str(tmp_path / "config.yaml"), []), "cpu")
