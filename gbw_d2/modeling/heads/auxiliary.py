"""The auxiliary semantic head: one convolution and a classifier on an earlier feature map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.errors import UserError

from detectron2.layers import Conv2d, ShapeSpec, get_norm


class AuxiliaryHead(nn.Module):
    """A fully convolutional head (PSPNet, section 3.3) that is used in training only.

    Args:
        in_feature: name of the feature map it reads.
        in_channels: channels of that map.
        channels: channels of its convolution.
        num_classes: K.
        norm: a normalisation of Detectron2's ``get_norm``.
    """

    def __init__(
        self, in_feature: str, in_channels: int, channels: int, num_classes: int, norm: str
    ) -> None:
        super().__init__()
        self.in_feature = in_feature
        self.conv = Conv2d(
            in_channels,
            channels,
            kernel_size=3,
            padding=1,
            bias=norm == "",
            norm=get_norm(norm, channels),
            activation=F.relu,
        )
        self.predictor = Conv2d(channels, num_classes, kernel_size=1)

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Returns logits (N, K, h, w) at the resolution of its feature map."""
        return self.predictor(self.conv(features[self.in_feature]))


def build_auxiliary_head(cfg: Any, shape: Mapping[str, ShapeSpec]) -> AuxiliaryHead | None:
    """Builds the head of ``MODEL.AUXILIARY_HEAD``, or returns None if it is not enabled.

    Raises:
        ValueError: the backbone does not have the named feature map.
    """
    keys = cfg.MODEL.AUXILIARY_HEAD
    if not keys.ENABLED:
        return None
    if keys.IN_FEATURE not in shape:
        raise UserError(
            f"MODEL.AUXILIARY_HEAD.IN_FEATURE is '{keys.IN_FEATURE}', but the backbone gives "
            f"{', '.join(shape)}; add it to MODEL.RESNETS.OUT_FEATURES"
        )
    return AuxiliaryHead(
        keys.IN_FEATURE,
        shape[keys.IN_FEATURE].channels,
        keys.CHANNELS,
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        keys.NORM,
    )
