"""The label space in a checkpoint: it is compared, and shared classes may be taken over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from own_data import write_own_data

from gbw_d2.engine.build import build_model
from gbw_d2.engine.checkpoint import Checkpointer, CheckpointError
from gbw_d2.engine.class_transfer import (
    checkpoint_space,
    difference,
    rows_of,
    with_shared_rows,
)
from gbw_d2.errors import UserError
from gbw_d2.inference.network import load_network, resolve_for
from gbw_d2.label_spaces import CITYSCAPES_19, LABEL_SPACES, LabelSpace, space_from_dict
from gbw_d2.modeling.capabilities import ClassRows


@pytest.fixture
def saved(tiny_config: Any, tmp_path: Path) -> tuple[Any, Path]:
    """A network of 16 classes and its checkpoint."""
    torch.manual_seed(0)
    model = build_model(tiny_config())
    (tmp_path / "run").mkdir()
    Checkpointer(model, str(tmp_path / "run")).save("model_0000003")
    return model, tmp_path / "run"


def test_the_label_space_is_in_the_file_as_plain_python(saved: tuple[Any, Path]) -> None:
    model, folder = saved
    content = torch.load(folder / "model_0000003.pth", weights_only=True)
    assert json.loads(json.dumps(content["label_space"])) == model.label_space.as_dict()
    for path in (folder, folder / "model_0000003.pth"):
        assert checkpoint_space(str(path)) == LABEL_SPACES.get("cityscapes_16")
    assert checkpoint_space("") is None and checkpoint_space("R-50.pkl") is None
    (folder / "model_0000003.pth").write_bytes(b"damaged")
    assert checkpoint_space(str(folder)) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"color": [1, 2]},
        {"color": [1, 2, 300]},
        {"color": "abc"},
        {"thing": "no"},
        {"name": 3},
        {"raw_id": "7"},
    ],
)
def test_a_damaged_label_space_is_told(changed: dict[str, Any]) -> None:
    content = CITYSCAPES_19.as_dict()
    content["classes"][2] |= changed
    with pytest.raises(UserError, match="label space of the checkpoint cannot be read"):
        space_from_dict(content)


def test_other_classes_are_told(saved: tuple[Any, Path], tiny_config: Any) -> None:
    _, folder = saved
    path = str(folder / "model_0000003.pth")
    other = build_model(tiny_config("DATASETS.LABEL_SPACE", "cityscapes_19"))
    with pytest.raises(CheckpointError, match="only this network has terrain, truck, train") as e:
        Checkpointer(other).load(path)
    assert "MODEL.REINITIALISE_MISMATCHED True" in str(e.value)
    thirteen = build_model(tiny_config("DATASETS.LABEL_SPACE", "cityscapes_13"))
    with pytest.raises(CheckpointError, match="only the checkpoint has wall, fence, pole"):
        Checkpointer(thirteen).load(path)
    strict = Checkpointer(other)
    strict.strict = strict.reinitialise = True
    with pytest.raises(CheckpointError, match=r"use its own classes \(DATASETS.LABEL_SPACE\)"):
        strict.load(path)
    mine = LabelSpace("a", CITYSCAPES_19.classes[::-1])
    assert difference(mine, CITYSCAPES_19) == "they have the same classes in another order"
    assert difference(CITYSCAPES_19, CITYSCAPES_19) == ""


def test_rows_of_shared_names_are_kept(saved: tuple[Any, Path], tiny_config: Any) -> None:
    old, folder = saved
    new = build_model(tiny_config("DATASETS.LABEL_SPACE", "cityscapes_19"))
    drawn = new.sem_seg_head.predictor.weight.detach().clone()
    checkpointer = Checkpointer(new)
    checkpointer.reinitialise = True
    checkpointer.load(str(folder / "model_0000003.pth"))
    table = old.label_space.to_family
    for part in ("weight", "bias"):
        before = getattr(old.sem_seg_head.predictor, part)
        after = getattr(new.sem_seg_head.predictor, part)
        if before is not None:
            assert torch.equal(after[table[:16].tolist()], before)
    left = [9, 14, 16]
    assert torch.equal(new.sem_seg_head.predictor.weight[left], drawn[left])
    for (name, a), (_, b) in zip(
        old.backbone.state_dict().items(), new.backbone.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def test_rows_follow_their_classes_by_hand() -> None:
    named = {c.name: c for c in CITYSCAPES_19.classes}
    theirs = LabelSpace("a", tuple(named[n] for n in ("road", "person", "car")))
    ours = LabelSpace("b", tuple(named[n] for n in ("car", "road", "bus")))
    layouts = {
        "predictor": ClassRows(),
        "score": ClassRows(things=True, more=1),
        "box": ClassRows(things=True, each=2),
        "mask.predictor": ClassRows(things=True),
    }
    # Both have three classes and two things: no shape tells that the rows are others.
    for name, expected in (
        ("head.predictor.weight", [2, 0, -1]),
        ("roi.score.bias", [1, -1, 2]),
        ("roi.box.weight", [2, 3, -1, -1]),
        ("roi.mask.predictor.weight", [1, -1]),
        ("roi.boxes.weight", None),
    ):
        rows = 5 if expected is None else len(expected)
        value = torch.arange(rows, dtype=torch.float32)
        moved = with_shared_rows({name: value}, {name: value * 0 - 1}, theirs, ours, layouts)[name]
        assert moved.tolist() == (value.tolist() if expected is None else expected), name


@pytest.mark.parametrize("model", ["", "models/panoptic_fpn_tiny", "models/mask2former_tiny"])
def test_every_layer_whose_rows_are_of_classes_is_named(tiny_config: Any, model: str) -> None:
    leaf = f"toy/panoptic_gbw {model}".strip()
    networks = [
        build_model(tiny_config("DATASETS.LABEL_SPACE", f"cityscapes_{number}", name=leaf))
        for number in (16, 19)
    ]
    small, large = (network.state_dict() for network in networks)
    differ = {name for name in small if small[name].shape != large[name].shape}
    found = {name: rows_of(name, networks[0].class_rows) for name in small}
    assert differ and differ == {name for name, rows in found.items() if rows is not None}
    before = {name: torch.full_like(value, 2.0) for name, value in small.items()}
    spaces = networks[0].label_space, networks[1].label_space
    moved = with_shared_rows(before, large, *spaces, networks[0].class_rows)
    for name in differ:
        assert moved[name].shape == large[name].shape, name
        assert (moved[name].view(len(moved[name]), -1) == 2).all(1).sum() == len(small[name]), name


def test_layers_of_another_shape_are_started_anew(
    saved: tuple[Any, Path], tiny_config: Any
) -> None:
    _, folder = saved
    path = str(folder / "model_0000003.pth")
    wide = build_model(tiny_config("MODEL.SEM_SEG_HEAD.CONVS_DIM", 64))
    with pytest.raises(CheckpointError, match="REINITIALISE_MISMATCHED True starts these"):
        Checkpointer(wide).load(path)
    drawn = wide.sem_seg_head.predictor.weight.detach().clone()
    checkpointer = Checkpointer(wide)
    checkpointer.reinitialise = True
    checkpointer.load(path)
    assert torch.equal(wide.sem_seg_head.predictor.weight, drawn)


def test_a_network_of_own_classes_needs_no_data(
    tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gbw_d2.config import load_config

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    data = write_own_data(tmp_path / "own", 5, images=1)
    keys = [("LABEL_SPACE", "own/data.yaml"), ("TEST", "('own/data.yaml:val',)")]
    cfg = tiny_config(*[word for key, value in keys for word in (f"DATASETS.{key}", value)])
    model = build_model(cfg)
    (tmp_path / "run").mkdir()
    Checkpointer(model, str(tmp_path / "run")).save("model_0000003")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    data.unlink()
    again = load_config(str(tmp_path / "config.yaml"), [])
    resolve_for(again, "cpu", str(tmp_path / "run"))
    assert again.DATASETS.LABEL_SPACE == "own/data.yaml"
    loaded = load_network(again, str(tmp_path / "run"))
    assert loaded.label_space == model.label_space
