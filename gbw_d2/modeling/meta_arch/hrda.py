"""GBWHRDA: a coarse prediction of the context and a fine one of crops, fused by scale attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import LabelSpace
from gbw_d2.losses import ClassWeightedCrossEntropy
from gbw_d2.modeling.heads.segformer import SegFormerHead
from gbw_d2.modeling.protocol import (
    Features,
    HeadSpec,
    Outputs,
    SemanticPrediction,
    Size,
    Targets,
)
from gbw_d2.modeling.segmentor import SEMANTIC, DenseSegmentor, upsampled
from gbw_d2.modeling.windows import Place, cut_out, drawn_places, pasted, sliding_places

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY

DETAIL = "detail"
# The context is the image at half its rows and columns, as in the paper.
_HALF = 2


class CropFeatures(dict[str, Tensor]):
    """Feature maps of the context by name, and feature maps of the detail windows.

    Args:
        context: maps of the whole images at half their size.
        details: maps of one window per image; several such maps if windows slide.
        places: positions of each of these windows, one per image.
        window: (rows, columns) of a window, pixels.
    """

    def __init__(
        self,
        context: Features,
        details: Sequence[Features],
        places: Sequence[Sequence[Place]],
        window: Size,
    ) -> None:
        super().__init__(context)
        self.details, self.places, self.window = details, places, window


@dataclass(frozen=True)
class Details:
    """The prediction on the detail windows.

    Attributes:
        prediction: prediction on all windows, (N x windows, K, h, w), window by window.
        places: positions of each window, one per image.
    """

    prediction: SemanticPrediction
    places: Sequence[Sequence[Place]]

    def of(self, maps: Tensor) -> Tensor:
        """Cuts the windows out of maps of the whole images, (N, H, W) -> (N x windows, h, w)."""
        size = self.prediction.size
        return torch.cat([cut_out(maps, places, size) for places in self.places])


def fused(context: Tensor, detail: Tensor, covered: Tensor, attention: Tensor) -> Tensor:
    """Fuses a coarse prediction with a fine one of a part (HRDA, equations 7 and 8).

    up(a) d + up((1 - a) c), where a is the attention inside detail windows and 0 outside. Outside,
    the authors' code has d = 0, which reduces the result along a window's border, where up(a) is
    not yet 0; here d is up(c) outside.

    Args:
        context: (N, C, h, w), c.
        detail: (N, C, 2h, 2w), d.
        covered: (N, 1, 2h, 2w) bool, where detail windows lie; their edges are even.
        attention: (N, C, h, w) or (N, 1, h, w) in 0..1, weight of the detail.

    Returns:
        (N, C, 2h, 2w).
    """
    size = (detail.shape[-2], detail.shape[-1])
    attention = attention * covered[..., ::_HALF, ::_HALF]
    detail = torch.where(covered, detail, upsampled(context, size))
    return upsampled(attention, size) * detail + upsampled((1 - attention) * context, size)


class ContextEncoder(nn.Module):
    """An encoder that sees the context alone.

    Args:
        backbone: maps images to feature maps by name.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Features:
        """Maps (N, 3, H, W) to feature maps of the images at half their size."""
        return self.backbone(F.avg_pool2d(images, _HALF))


@META_ARCH_REGISTRY.register()
class GBWHRDA(DenseSegmentor):
    """HRDA (Hoyer et al., ECCV 2022) with any backbone and any semantic head of Detectron2.

    One network predicts the whole image at half its size (context) and windows of it at full size
    (detail). With ``draws`` there is one window per image, drawn by its generator; without, as in
    inference and for pseudo-labels, windows slide over the image by half their size. An attention
    per class and position, predicted from the context, fuses both predictions. The fused prediction
    and the detail prediction are trained on the same labels. docs/equations.md 12.

    Class weights are measured at the classifier that both predictions share; the detail loss takes
    over the weights of the fused loss, unless ``WEIGHTING.WEIGHTS_FROM`` is set otherwise.

    Args:
        scale_attention: a head whose ``layers(features)`` returns K channels before the sigmoid.
        window: (rows, columns) of a detail window, pixels.
        stride: image pixels per cell of the semantic head's logits.
        multiple: image sizes, window sizes and window positions are multiples of this, pixels.
        kwargs: of :class:`DenseSegmentor`.
    """

    @configurable
    def __init__(
        self,
        *,
        scale_attention: nn.Module,
        window: Size,
        stride: int,
        multiple: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scale_attention = scale_attention
        self.window, self.stride, self.multiple = window, stride, multiple

    @classmethod
    def heads(cls, cfg: Any, space: LabelSpace) -> dict[str, HeadSpec]:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        every = tuple(range(space.num_classes))
        detail = HeadSpec(ClassWeightedCrossEntropy, every, True, weights_from=SEMANTIC)
        return {**super().heads(cfg, space), DETAIL: detail}

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Reads the shared arguments and ``MODEL.HRDA``."""
        arguments, keys = super().from_config(cfg), cfg.MODEL.HRDA
        backbone, factors = arguments["backbone"], arguments["loss_factors"]
        shape = backbone.output_shape()
        head = cfg.MODEL.SEM_SEG_HEAD
        stride = min(shape[name].stride for name in head.IN_FEATURES)
        multiple = _HALF * math.lcm(stride, max(1, backbone.size_divisibility))
        whole, share = factors[SEMANTIC], keys.DETAIL_LOSS_SHARE
        levels = sorted(shape, key=lambda name: shape[name].stride)
        attention = SegFormerHead(
            in_features=levels,
            in_channels=[shape[name].channels for name in levels],
            channels=keys.ATTENTION_CHANNELS,
            num_classes=head.NUM_CLASSES,
            dropout=head.ASPP_DROPOUT,
            norm=head.NORM,
        )
        return {
            **arguments,
            "scale_attention": attention,
            "window": window_size(keys.DETAIL_SIZE, cfg.INPUT.CROP_SIZE, multiple),
            "stride": stride,
            "multiple": multiple,
            "loss_factors": {**factors, SEMANTIC: (1 - share) * whole, DETAIL: share * whole},
        }

    @property
    def size_divisibility(self) -> int:
        """See :class:`DenseSegmentor`."""
        return self.multiple

    def frozen_encoder(self) -> nn.Module:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return ContextEncoder(super().frozen_encoder()).eval()

    def features(
        self, images: Tensor, draws: Sequence[np.random.Generator] | None = None
    ) -> CropFeatures:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`; by name, maps of the context.

        Raises:
            UserError: windows do not fit the images' size, or the size is not fixed.
        """
        if any(isinstance(length, torch.SymInt) for length in images.shape):
            raise UserError(
                f"{type(self).__name__} slides windows whose number must be known; export it for "
                "one size and number of images, without --dynamic"
            )
        size = (images.shape[-2], images.shape[-1])
        if any(length % self.multiple for length in size):
            raise UserError(
                f"images are {size[0]} x {size[1]}; {type(self).__name__} with this backbone and "
                f"head takes multiples of {self.multiple}"
            )
        window = (min(self.window[0], size[0]), min(self.window[1], size[1]))
        if draws is None:
            sliding = sliding_places(size, window, self.multiple)
            places = [[place] * len(images) for place in sliding]
        else:
            places = [drawn_places(draws, size, window, self.multiple)]
        context = self.backbone(F.avg_pool2d(images, _HALF))
        # Window by window, so that no pass is larger than one in training.
        details = [self.backbone(cut_out(images, each, window)) for each in places]
        return CropFeatures(context, details, places, window)

    def outputs(self, features: Features, image_size: Size, instances: bool = True) -> Outputs:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        assert isinstance(features, CropFeatures), "features are those of this network"
        plain = super().outputs(features, image_size, instances)
        context = plain.semantic
        seen = [
            self._predicted(self.sem_seg_head, each, features.window) for each in features.details
        ]
        grid = (image_size[0] // self.stride, image_size[1] // self.stride)
        attention = self.scale_attention.layers(features)
        small = (context.logits.shape[-2], context.logits.shape[-1])
        if attention.shape[-2:] != small:
            attention = upsampled(attention, small)
        attention = attention.sigmoid()
        paste = partial(pasted, places=features.places, stride=self.stride, size=grid)
        logits = fused(context.logits, *paste([each.logits for each in seen]), attention)
        inputs = None
        if self.training:
            # The fused classifier input, which is exact if all classes share one attention.
            with torch.no_grad():
                read = paste([each.features for each in seen])
                inputs = fused(context.features, *read, attention.mean(1, keepdim=True))
        details = SemanticPrediction(
            torch.cat([each.logits for each in seen]),
            features.window,
            torch.cat([each.features for each in seen]),
        )
        return Outputs(
            SemanticPrediction(logits, image_size, inputs),
            plain.auxiliary,
            Details(details, features.places) if self.training else None,
        )

    def loss_calls(
        self, outputs: Outputs, targets: Targets, pixel_weights: Tensor | None
    ) -> dict[str, Callable[..., Tensor]]:
        """See :class:`DenseSegmentor`; adds the loss of the detail windows."""
        calls = super().loss_calls(outputs, targets, pixel_weights)
        details = outputs.private
        if details is not None and targets.semantic is not None:
            assert self.weighted_losses is not None
            calls[DETAIL] = partial(
                self.weighted_losses[DETAIL],
                details.prediction.logits,
                details.of(targets.semantic),
                pixel_weights=None if pixel_weights is None else details.of(pixel_weights),
                classifier=details.prediction.classifier,
            )
        return calls


def window_size(asked: Sequence[int], crop: Sequence[int], multiple: int) -> Size:
    """Returns (rows, columns) of a detail window.

    Args:
        asked: ``MODEL.HRDA.DETAIL_SIZE``.
        crop: ``INPUT.CROP_SIZE``, half of which, rounded down, is used if ``asked`` is empty.
        multiple: both sizes must be multiples of this, pixels.

    Raises:
        UserError: neither is given, or the size is not a multiple.
    """
    if len(asked) == 0 and len(crop) == 2:
        rows, columns = (max(1, side // _HALF // multiple) * multiple for side in crop)
        return rows, columns
    if len(asked) != 2 or any(side < 1 or side % multiple for side in asked):
        raise UserError(
            f"MODEL.HRDA.DETAIL_SIZE is {tuple(asked)} and INPUT.CROP_SIZE {tuple(crop)}; expected "
            f"(rows, columns) in multiples of {multiple}, or () for half of INPUT.CROP_SIZE"
        )
    return asked[0], asked[1]
