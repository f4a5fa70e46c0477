"""The head of DeepLabV2: the sum of parallel dilated convolutions to the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.errors import UserError

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY


class DilatedClassifier(nn.Module):
    """Sums 3 x 3 convolutions of several dilations (Chen et al., DeepLab, TPAMI 2018, ASPP-L).

    Args:
        in_channels: D.
        num_classes: K.
        dilations: dilations of the branches.
    """

    def __init__(self, in_channels: int, num_classes: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, num_classes, 3, padding=dilation, dilation=dilation)
            for dilation in dilations
        )
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Maps features (N, D, h, w) to logits (N, K, h, w)."""
        first, *others = self.branches
        logits = first(features)
        for branch in others:
            logits = logits + branch(features)
        return logits


@SEM_SEG_HEADS_REGISTRY.register()
class DeepLabV2Head(nn.Module):
    """A dilated classifier directly on one feature map of the backbone.

    Class weights by a measure at the classifier (``WEIGHTING.MEASURE`` class_gradient or
    hindrance) treat it as a 1 x 1 convolution: they measure the gradient of the centre taps, which
    is exact and equal in every branch. The eight outer taps of each branch read other cells and are
    ignored, so the measure approximates that of the whole classifier. ``WEIGHTING.MEASURE norm`` is
    exact.

    Args:
        in_feature: name of the feature map.
        in_channels: its channels.
        num_classes: K.
        dilations: dilations of the branches; 6, 12, 18, 24 in the paper.
    """

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        in_channels: int,
        num_classes: int,
        dilations: Sequence[int] = (6, 12, 18, 24),
    ) -> None:
        super().__init__()
        self.in_feature = in_feature
        self.predictor = DilatedClassifier(in_channels, num_classes, dilations)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Reads ``MODEL.SEM_SEG_HEAD``: IN_FEATURES (exactly one), ASPP_DILATIONS, NUM_CLASSES."""
        keys = cfg.MODEL.SEM_SEG_HEAD
        names = list(keys.IN_FEATURES)
        if len(names) != 1 or names[0] not in input_shape:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {names}; DeepLabV2Head reads exactly one of "
                f"what the backbone gives ({', '.join(input_shape)})"
            )
        return {
            "in_feature": names[0],
            "in_channels": input_shape[names[0]].channels,
            "num_classes": keys.NUM_CLASSES,
            "dilations": tuple(keys.ASPP_DILATIONS),
        }

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Returns logits (N, K, h, w) at the resolution of its feature map."""
        return self.predictor(features[self.in_feature])
