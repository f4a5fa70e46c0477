"""The head of DAFormer: context-aware fusion of maps of all strides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.modeling.heads.level_embedding import LevelEmbedding, classifier, head_arguments

from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY


def _conv(in_channels: int, channels: int, norm: str, kernel: int, **kwargs: Any) -> Conv2d:
    return Conv2d(
        in_channels,
        channels,
        kernel_size=kernel,
        bias=norm == "",
        norm=get_norm(norm, channels),
        activation=F.relu,
        **kwargs,
    )


class SeparableASPP(nn.Module):
    """Parallel depthwise separable dilated convolutions without image pooling, then a bottleneck.

    A branch of dilation 1 is a plain 1 x 1 convolution (DeepLabV3+, section 3.1).

    Args:
        in_channels: D.
        channels: channels of each branch and of the output.
        dilations: dilations of the branches.
        norm: a normalisation of Detectron2's ``get_norm``.
    """

    def __init__(
        self, in_channels: int, channels: int, dilations: Sequence[int], norm: str
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            _conv(in_channels, channels, norm, 1)
            if dilation == 1
            else nn.Sequential(
                _conv(
                    *(in_channels, in_channels, norm, 3),
                    padding=dilation,
                    dilation=dilation,
                    groups=in_channels,
                ),
                _conv(in_channels, channels, norm, 1),
            )
            for dilation in dilations
        )
        self.project = _conv(len(dilations) * channels, channels, norm, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, D, h, w) to (N, channels, h, w)."""
        return self.project(torch.cat([branch(x) for branch in self.branches], dim=1))


@SEM_SEG_HEADS_REGISTRY.register()
class DAFormerHead(nn.Module):
    """Context-aware feature fusion (Hoyer et al., DAFormer, CVPR 2022, section 3.2).

    Args:
        in_features: names of the feature maps, the finest first.
        in_channels: channels of each map.
        channels: channels of embeddings and fusion; 256 in the paper.
        num_classes: K.
        dilations: dilations of the fusion; 1, 6, 12, 18 in the paper.
        dropout: share of channels that is dropped before the classifier, 0..1.
        norm: a normalisation of Detectron2's ``get_norm``; batch norm in the reference.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        dilations: Sequence[int] = (1, 6, 12, 18),
        dropout: float = 0.1,
        norm: str = "GN",
    ) -> None:
        super().__init__()
        self.embedding = LevelEmbedding(in_features, in_channels, channels)
        self.fusion = SeparableASPP(len(in_channels) * channels, channels, dilations, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = classifier(channels, num_classes)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Reads the constructor's arguments from ``MODEL.SEM_SEG_HEAD``."""
        return {
            **head_arguments(cfg, input_shape, cls.__name__),
            "dilations": tuple(cfg.MODEL.SEM_SEG_HEAD.ASPP_DILATIONS),
        }

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Returns logits (N, K, h, w) at the resolution of its finest feature map."""
        fused = self.fusion(torch.cat(self.embedding(features), dim=1))
        return self.predictor(self.dropout(fused))
