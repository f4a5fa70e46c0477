"""A ResNet of Detectron2's blocks for small images, with strides 2 to 16 or 32.

Detectron2's own stems have stride 4, at which a pole of the toy world is half a pixel wide.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)

from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet


class _Stem(CNNBlockBase):
    """One 3 x 3 convolution of stride 2."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__(in_channels, out_channels, 2)
        self.conv1 = Conv2d(
            in_channels,
            out_channels,
            kernel_size=3,
            stride=2,
            padding=1,
            bias=norm == "",
            norm=get_norm(norm, out_channels),
            activation=F.relu,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(x)


@BACKBONE_REGISTRY.register()
def build_small_resnet_backbone(cfg: Any, input_shape: ShapeSpec) -> ResNet:
    """Builds stem (stride 2), res2 (4), res3 (8), res4 (16) and optionally res5, of one block each.

    Args:
        cfg: reads ``MODEL.RESNETS``: STEM_OUT_CHANNELS, RES2_OUT_CHANNELS (doubled from stage to
            stage), NORM, OUT_FEATURES (res5, stride 32, is there where it is named). All weights
            are trained, whatever BACKBONE.FREEZE_AT says.
        input_shape: channels of the image.
    """
    keys = cfg.MODEL.RESNETS
    stages, channels = [], keys.STEM_OUT_CHANNELS
    for stage in range(4 if "res5" in keys.OUT_FEATURES else 3):
        out_channels = keys.RES2_OUT_CHANNELS * 2**stage
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                1,
                stride_per_block=[2],
                in_channels=channels,
                out_channels=out_channels,
                norm=keys.NORM,
            )
        )
        channels = out_channels
    stem = _Stem(input_shape.channels, keys.STEM_OUT_CHANNELS, keys.NORM)
    return ResNet(stem, stages, out_features=keys.OUT_FEATURES)
