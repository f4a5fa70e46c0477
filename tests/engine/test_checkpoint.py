"""Checkpoints: plain content, nothing half-written, and errors where they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from gbw_d2.engine.checkpoint import Checkpointer, CheckpointError
from gbw_d2.weighting import build_scheme


def network(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, classes, 1))


def test_round_trip_with_plain_content(tmp_path: Path) -> None:
    model, scheme = network(), build_scheme("gbw", 3, {"momentum": 0.9})
    scheme._means["source"], scheme._seen["source"] = torch.rand(3), torch.ones(3).bool()
    Checkpointer(model, str(tmp_path), weighting=scheme).save("model_a", iteration=7)
    assert torch.load(tmp_path / "model_a.pth", weights_only=True)["iteration"] == 7
    other, empty = network(), build_scheme("gbw", 3, {"momentum": 0.9})
    rest = Checkpointer(other, str(tmp_path), weighting=empty).resume_or_load("", resume=True)
    assert rest["iteration"] == 7
    assert torch.equal(other[1].weight, model[1].weight)
    assert torch.equal(empty.state_dict()["source.mean"], scheme.state_dict()["source.mean"])


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = Checkpointer(network(), str(tmp_path))
    checkpointer.save("model", iteration=1)

    def fail(_data: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gbw_d2.engine.checkpoint.torch.save", fail)
    with pytest.raises(OSError, match="No space"):
        checkpointer.save("model", iteration=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]
    assert torch.load(tmp_path / "model.pth", weights_only=True)["iteration"] == 1


def test_other_class_count_raises(tmp_path: Path) -> None:
    Checkpointer(network(3), str(tmp_path)).save("model")
    with pytest.raises(CheckpointError, match=r"1.weight: file \(3, 4, 1, 1\), network \(5, "):
        Checkpointer(network(5), str(tmp_path)).load(str(tmp_path / "model.pth"))


def test_missing_part_raises_only_where_strict(tmp_path: Path) -> None:
    torch.save({"model": {"0.weight": network()[0].weight.detach()}}, tmp_path / "part.pth")
    checkpointer = Checkpointer(network(), str(tmp_path))
    checkpointer.load(str(tmp_path / "part.pth"))
    checkpointer.strict = True
    with pytest.raises(CheckpointError, match="lacks 3 tensors"):
        checkpointer.load(str(tmp_path / "part.pth"))


def test_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"do not exist; set MODEL\.WEIGHTS"):
        Checkpointer(network(), str(tmp_path)).load(str(tmp_path / "none.pth"))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "made",))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only|Unsupported"):
        Checkpointer(network(), str(tmp_path)).load(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "made").exists()
