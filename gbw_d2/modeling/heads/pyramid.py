"""A feature pyramid beside an encoder: Detectron2's FPN (Lin et al., CVPR 2017) on its maps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.errors import UserError
from gbw_d2.modeling.heads.build import built_by

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool


class _GivenMaps(Backbone):
    """Returns given feature maps, in place of the encoder that Detectron2's FPN would run."""

    def __init__(self, shape: Mapping[str, ShapeSpec]) -> None:
        super().__init__()
        self._out_features = list(shape)
        self._out_feature_strides = {name: each.stride for name, each in shape.items()}
        self._out_feature_channels = {name: each.channels for name, each in shape.items()}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return features


def build_pyramid(cfg: Any, shape: Mapping[str, ShapeSpec]) -> FPN:
    """Builds the pyramid of ``MODEL.FPN``, with Mask R-CNN's additional level by pooling.

    The encoder is not part of the pyramid: it has its own learning rate, and a semantic head may
    read its maps directly.

    Args:
        cfg: the config.
        shape: shapes of the encoder's feature maps.

    Raises:
        UserError: the encoder lacks a map, or the maps' strides are not consecutive powers of two,
            or the keys cannot be built of.
    """
    keys, names = cfg.MODEL.FPN, list(cfg.MODEL.FPN.IN_FEATURES)
    if not names or any(name not in shape for name in names):
        raise UserError(
            f"MODEL.FPN.IN_FEATURES is {names}; the encoder gives {', '.join(shape)}, the finest "
            "first"
        )
    strides = [shape[name].stride for name in names]
    if strides[0] & (strides[0] - 1) or any(b != 2 * a for a, b in pairwise(strides)):
        raise UserError(
            f"MODEL.FPN.IN_FEATURES {names} have strides {strides}; expected powers of two in a "
            "row, such as 4, 8, 16 and 32 (encoders/resnet50_stride32 under models/panoptic_fpn)"
        )
    top = LastLevelMaxPool()
    top.in_feature = f"p{strides[-1].bit_length() - 1}"
    maps = _GivenMaps({name: shape[name] for name in names})
    with built_by("MODEL.FPN", keys.NORM):
        return FPN(maps, names, keys.OUT_CHANNELS, keys.NORM, top, keys.FUSE_TYPE)
