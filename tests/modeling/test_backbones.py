"""The small ResNet: strides, channels, and that nothing in it is frozen."""

from __future__ import annotations

from typing import Any

import torch

from gbw_d2.engine.build import build_model


def test_small_resnet(tiny_config: Any) -> None:
    backbone = build_model(tiny_config()).backbone
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 48, 80))
    sizes = {name: tuple(f.shape[1:]) for name, f in features.items()}
    assert sizes == {
        "stem": (32, 24, 40),
        "res2": (64, 12, 20),
        "res3": (128, 6, 10),
        "res4": (256, 3, 5),
    }
    for name, shape in backbone.output_shape().items():
        assert (shape.channels, 48 // shape.stride) == sizes[name][:2]
    assert all(p.requires_grad for p in backbone.parameters())
