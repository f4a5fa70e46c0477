"""Projects maps of several strides to the same number of channels and the same size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.errors import UserError

from detectron2.layers import ShapeSpec


class LevelEmbedding(nn.Module):
    """A linear layer per level and bilinear upsampling (SegFormer, section 3.2).

    Args:
        in_features: names of the levels, the finest first.
        in_channels: channels of each level.
        channels: channels of the outputs.
    """

    def __init__(
        self, in_features: Sequence[str], in_channels: Sequence[int], channels: int
    ) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        # 1 x 1 convolutions are linear layers on pixels.
        self.layers = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Returns one map (N, channels, h, w) per level, of the finest level's size."""
        size = features[self.in_features[0]].shape[-2:]
        embedded = [
            layer(features[name]) for layer, name in zip(self.layers, self.in_features, strict=True)
        ]
        return [
            level
            if level.shape[-2:] == size
            else F.interpolate(level, size=size, mode="bilinear", align_corners=False)
            for level in embedded
        ]


def head_arguments(cfg: Any, input_shape: Mapping[str, ShapeSpec], head: str) -> dict[str, Any]:
    """Reads the arguments that heads on level embeddings share from ``MODEL.SEM_SEG_HEAD``.

    Args:
        cfg: reads IN_FEATURES, CONVS_DIM, ASPP_DROPOUT, NORM, NUM_CLASSES.
        input_shape: the backbone's maps.
        head: name of the head, for errors.

    Raises:
        UserError: fewer than two feature maps are named, or the backbone lacks one of them.
    """
    keys = cfg.MODEL.SEM_SEG_HEAD
    names = sorted(set(keys.IN_FEATURES), key=lambda n: getattr(input_shape.get(n), "stride", 0))
    if len(names) < 2 or not set(names) <= set(input_shape):
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(keys.IN_FEATURES)}; {head} reads two or more "
            f"of what the backbone gives ({', '.join(input_shape)})"
        )
    return {
        "in_features": names,
        "in_channels": [input_shape[name].channels for name in names],
        "channels": keys.CONVS_DIM,
        "num_classes": keys.NUM_CLASSES,
        "dropout": keys.ASPP_DROPOUT,
        "norm": keys.NORM,
    }


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """Returns a 1 x 1 convolution to the classes, initialised near zero as by the authors."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer
