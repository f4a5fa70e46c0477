"""MODEL.WEIGHTS of other namings load all of the encoder, or stop the run."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from gbw_d2.engine.checkpoint import Checkpointer, CheckpointError
from gbw_d2.engine.initial_weights import encoder_of

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone
from detectron2.modeling.backbone.fpn import FPN

WRAPPERS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "ema": lambda s: {"model": {k: v * 0 for k, v in s.items()}, "ema": s},
    "module": lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
    "backbone": lambda s: {"state_dict": {f"backbone.{k}": v for k, v in s.items()}},
    "lightning": lambda s: {
        "state_dict": {f"model.backbone.{k}": v for k, v in s.items()},
        "pytorch-lightning_version": "2.0",
    },
}


class Network(nn.Module):
    def __init__(self, pyramid: bool = False, depth: int = 18, norm: str = "FrozenBN") -> None:
        super().__init__()
        cfg = get_cfg()
        cfg.MODEL.RESNETS.DEPTH = depth
        cfg.MODEL.RESNETS.NORM = norm
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth == 18 else 256
        cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
        self.backbone: Any = build_resnet_backbone(cfg, ShapeSpec(channels=3))
        if pyramid:
            self.backbone = FPN(self.backbone, ["res5"], 8)
        self.head = nn.Conv2d(8, 3, 1)


def randomise(state: dict[str, Any]) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    return {
        k: torch.rand(v.shape, generator=g) + 0.5 if v.is_floating_point() else v
        for k, v in state.items()
    }


def load(model: nn.Module, content: Any, folder: Path) -> None:
    torch.save(content, folder / "weights.pth")
    Checkpointer(model, str(folder)).load(str(folder / "weights.pth"))


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("pyramid", [False, True])
def test_torchvision_gives_the_same_features(tmp_path: Path, wrapper: str, pyramid: bool) -> None:
    theirs = torchvision.models.resnet18().eval()
    state = randomise(theirs.state_dict())
    theirs.load_state_dict(state)
    ours = Network(pyramid).eval()
    load(ours, WRAPPERS[wrapper](state), tmp_path)
    encoder = ours.backbone.bottom_up if pyramid else ours.backbone
    x = torch.rand(1, 3, 64, 64)
    expected = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        expected = layer(expected)
    torch.testing.assert_close(encoder(x)["res5"], expected, rtol=1e-4, atol=1e-5)


def test_fifty_three_convolutions(tmp_path: Path) -> None:
    state = randomise(timm.create_model("resnet50").state_dict())
    ours = Network(depth=50)
    load(ours, state, tmp_path)
    own = dict(ours.backbone.named_parameters())
    assert len(own) == 53
    file = [v for v in state.values() if v.dim() == 4]
    assert all(any(torch.equal(p, v) for v in file if v.shape == p.shape) for p in own.values())


def test_a_whole_network_keeps_its_heads(tmp_path: Path) -> None:
    before, after = Network(), Network()
    load(
        after, {"state_dict": {f"module.{k}": v for k, v in before.state_dict().items()}}, tmp_path
    )
    assert all(torch.equal(v, after.state_dict()[k]) for k, v in before.state_dict().items())


def test_detectron2s_own_names_alone(tmp_path: Path) -> None:
    before, after = Network(), Network(pyramid=True)
    load(after, before.backbone.state_dict(), tmp_path)
    assert torch.equal(
        after.backbone.bottom_up.res5[0].conv1.weight, before.backbone.res5[0].conv1.weight
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: timm.create_model("resnet34").state_dict(), None),
        (lambda: torchvision.models.resnet50().state_dict(), "of another shape"),
        (lambda: torchvision.models.mobilenet_v2().state_dict(), "holds 0% .*missing"),
        # Buffers of frozen batch norms alone: what once counted as found.
        (lambda: {k: v for k, v in Network().state_dict().items() if "norm" in k}, "holds 0%"),
    ],
)
def test_others_stop(tmp_path: Path, content: Any, words: str | None) -> None:
    if words is None:
        load(Network(), content(), tmp_path)  # its first blocks are a ResNet-18's
        return
    with pytest.raises(CheckpointError, match=words) as caught:
        load(Network(), content(), tmp_path)
    assert re.search(r"weights\.pth': it holds \d+% of the encoder's parameters", str(caught.value))


def test_the_encoder_is_below_the_pyramid() -> None:
    found = encoder_of(Network(pyramid=True))
    assert found is not None
    assert found[0] == "backbone.bottom_up."
    assert encoder_of(nn.Conv2d(1, 1, 1)) is None


@pytest.mark.parametrize("pyramid", [False, True])
def test_a_file_in_the_form_of_detectron2s_zoo(tmp_path: Path, pyramid: bool) -> None:
    before, after = Network(), Network(pyramid)
    arrays = {k: v.numpy() for k, v in before.backbone.state_dict().items()}
    content = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
    (tmp_path / "R.pkl").write_bytes(pickle.dumps(content))
    Checkpointer(after, str(tmp_path)).load(str(tmp_path / "R.pkl"))
    encoder = after.backbone.bottom_up if pyramid else after.backbone
    state = before.backbone.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in encoder.state_dict().items())
