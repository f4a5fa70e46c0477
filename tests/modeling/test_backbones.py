"""The ResNets: strides, channels, and what is frozen."""

from __future__ import annotations

from typing import Any

import torch

from gbw_d2.engine.build import build_model

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

CAFFE = "toy/semantic_gbw encoders/resnet101_caffe models/semantic_deeplabv2"


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


def test_small_resnet_has_a_fifth_stage_where_a_head_reads_it(tiny_config: Any) -> None:
    cfg = tiny_config("MODEL.RESNETS.OUT_FEATURES", "['res2', 'res5']")
    backbone = build_backbone(cfg)
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 64, 96))
    assert {n: tuple(f.shape[1:]) for n, f in features.items()} == {
        "res2": (64, 16, 24),
        "res5": (512, 2, 3),
    }
    assert backbone.output_shape()["res5"].stride == 32


def test_dilated_resnet_is_detectron2s_with_the_stem(tiny_config: Any) -> None:
    words = (
        *("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
        *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
        *("MODEL.RESNETS.NORM", "''", "MODEL.RESNETS.OUT_FEATURES", "['stem', 'res4', 'res5']"),
    )
    names = ("build_dilated_resnet_backbone", "build_resnet_deeplab_backbone")
    ours = build_backbone(tiny_config(*words, "MODEL.BACKBONE.NAME", names[0], name=CAFFE))
    assert ours.output_shape()["stem"] == ShapeSpec(channels=8, stride=4)
    without = (*words[:-1], "['res4', 'res5']")
    theirs = build_backbone(tiny_config(*without, "MODEL.BACKBONE.NAME", names[1], name=CAFFE))
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        found, expected = ours(image), theirs(image)
    assert list(found) == ["stem", "res4", "res5"] and found["stem"].shape == (1, 8, 8, 12)
    assert torch.equal(found["res4"], expected["res4"])
    assert torch.equal(found["res5"], expected["res5"])
