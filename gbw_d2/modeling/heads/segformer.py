"""The head of SegFormer: linear layers on maps of all strides."""

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


@SEM_SEG_HEADS_REGISTRY.register()
class SegFormerHead(nn.Module):
    """The all-MLP decoder (Xie et al., SegFormer, NeurIPS 2021, section 3.2, equation 4).

    Args:
        in_features: names of the feature maps, the finest first.
        in_channels: channels of each map.
        channels: channels of the embeddings; 256 for MiT-B0 and B1, 768 for larger encoders in the
        paper.
        num_classes: K.
        dropout: share of channels that is dropped before the classifier, 0..1.
        norm: a normalisation of Detectron2's ``get_norm``; SyncBN in the reference.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        dropout: float = 0.1,
        norm: str = "GN",
    ) -> None:
        super().__init__()
        self.embedding = LevelEmbedding(in_features, in_channels, channels)
        self.fuse = Conv2d(
            len(in_channels) * channels,
            channels,
            kernel_size=1,
            bias=norm == "",
            norm=get_norm(norm, channels),
            activation=F.relu,
        )
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = classifier(channels, num_classes)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Reads ``MODEL.SEM_SEG_HEAD``: IN_FEATURES, CONVS_DIM, ASPP_DROPOUT, NORM, NUM_CLASSES."""
        return head_arguments(cfg, input_shape, cls.__name__)

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Returns logits (N, K, h, w) at the resolution of its finest feature map."""
        # The coarsest level first, as in the authors' code, so that its weights fit.
        fused = self.fuse(torch.cat(self.embedding(features)[::-1], dim=1))
        return self.predictor(self.dropout(fused))
