"""The base class of dense architectures: images, encoder, semantic head, losses and results."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL, LABEL_SPACES, LabelSpace
from gbw_d2.losses import ClassWeightedCrossEntropy, WeightedLosses, in_order
from gbw_d2.modeling import backbones  # noqa: F401  (registers them)
from gbw_d2.modeling.capabilities import ClassRows
from gbw_d2.modeling.heads.auxiliary import build_auxiliary_head
from gbw_d2.modeling.heads.build import build_semantic_head
from gbw_d2.modeling.heads.classifier import classifier_input_and_logits
from gbw_d2.modeling.plain_losses import plain_losses
from gbw_d2.modeling.protocol import (
    Features,
    HeadSpec,
    Losses,
    Outputs,
    PixelPseudoLabels,
    SegmentMaps,
    SemanticPrediction,
    Size,
    TargetGenerator,
    Targets,
    View,
)
from gbw_d2.modeling.targets.none import no_targets
from gbw_d2.modeling.views import merged_maps
from gbw_d2.ops.masks import mix
from gbw_d2.weighting import WeightLog

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList

# Heads; their losses are called "loss_<head>".
SEMANTIC = "semantic"
AUXILIARY = "auxiliary"

# Name of the exported logits (N, K, H, W).
SEMANTIC_LOGITS = "semantic_logits"


class DenseSegmentor(nn.Module):
    """A backbone and a semantic head of Detectron2, with class-weighted cross-entropy.

    Architectures derive from it and add their instance branch: ``heads``, ``predicts_instances``
    and ``target_generator`` declare it; ``instance_outputs``, ``loss_calls``, ``pseudo_targets``,
    ``dense_maps`` and ``result`` compute it. :class:`gbw_d2.modeling.protocol.SegmentationModel` is
    the interface of a network.

    Args:
        backbone: maps (N, 3, H, W) to feature maps by name.
        sem_seg_head: a Detectron2 head with ``layers(features)`` and a final ``predictor``.
        auxiliary_head: a second head of the same form for training, or None.
        label_space: the classes that the network predicts.
        pixel_mean, pixel_std: of each channel, 0..255, in ``INPUT.FORMAT`` order.
        loss_factors: factor of each head's loss.
        image_format: order of the images' channels, RGB or BGR.
        weighted_losses: the loss of each head.
        neck: computes further feature maps for the heads from the backbone's, or None.

    Attributes:
        target_entries: names of a sample's label entries that are this network's own.
        target_padding: padding values of such entries that are not padded with 0.
        displacements: names of dense maps that hold (dy, dx) in pixels.
        class_rows: its classifiers by part of their parameters' names.
        waits_per_step: how often a training step waits for the device.
        not_exported: a message about what ``export_outputs`` omits and why; "" = nothing.
    """

    target_entries: tuple[str, ...] = ()
    target_padding: Mapping[str, float] = {}
    displacements: frozenset[str] = frozenset()
    class_rows: Mapping[str, ClassRows] = {"predictor": ClassRows()}
    waits_per_step = 0
    not_exported: str = ""

    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        auxiliary_head: nn.Module | None,
        label_space: LabelSpace,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        loss_factors: Mapping[str, float],
        image_format: str = "RGB",
        weighted_losses: WeightedLosses | None = None,
        neck: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.sem_seg_head = sem_seg_head
        self.auxiliary_head = auxiliary_head
        self.label_space = label_space
        self.loss_factors = dict(loss_factors)
        self.image_format = image_format
        self.weighted_losses: WeightedLosses | None
        self._hold(weighted_losses)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    def _hold(self, losses: WeightedLosses | None) -> None:
        # Not a sub-module: their state is saved beside the network, and copies of the network lack
        # them.
        object.__setattr__(self, "weighted_losses", losses)

    def train(self, mode: bool = True) -> DenseSegmentor:
        """Sets the mode of the network and its losses, whose state is updated in training only."""
        super().train(mode)
        if self.weighted_losses is not None:
            self.weighted_losses.train(mode)
        return self

    @classmethod
    def heads(cls, cfg: Any, space: LabelSpace) -> dict[str, HeadSpec]:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        every = tuple(range(space.num_classes))
        names = (SEMANTIC, AUXILIARY) if cfg.MODEL.AUXILIARY_HEAD.ENABLED else (SEMANTIC,)
        return {name: HeadSpec(ClassWeightedCrossEntropy, every, True) for name in names}

    @classmethod
    def predicts_instances(cls, cfg: Any) -> bool:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return False

    @classmethod
    def target_generator(cls, cfg: Any, space: LabelSpace) -> TargetGenerator:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return no_targets

    @classmethod
    def build_neck(cls, cfg: Any, shape: Mapping[str, ShapeSpec]) -> nn.Module | None:
        """Builds the neck between a backbone of this shape and the heads, or returns None."""
        return None

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Reads the shared constructor arguments from a config (Detectron2's ``@configurable``)."""
        if cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE != "cross_entropy":
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.LOSS_TYPE is '{cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE}', but "
                f"{cls.__name__} has one loss, 'cross_entropy', weighted by WEIGHTING.NAME"
            )
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        neck = cls.build_neck(cfg, shape)
        if neck is not None:
            shape = {**shape, **neck.output_shape()}
        space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
        return {
            "backbone": backbone,
            "neck": neck,
            "sem_seg_head": build_semantic_head(cfg, shape),
            "auxiliary_head": build_auxiliary_head(cfg, shape),
            "label_space": space,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "loss_factors": {
                SEMANTIC: cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT,
                AUXILIARY: cfg.MODEL.AUXILIARY_HEAD.LOSS_WEIGHT,
            },
            "image_format": cfg.INPUT.FORMAT,
            "weighted_losses": plain_losses(cls.heads(cfg, space), space.num_classes),
        }

    @property
    def size_divisibility(self) -> int:
        """The number of which a batch's padded rows and columns are multiples; 0 = no padding."""
        own = self.backbone.size_divisibility
        return own if self.neck is None else max(own, self.neck.size_divisibility)

    @property
    def device(self) -> torch.device:
        """The device of the network's parameters."""
        return self.pixel_mean.device

    def _stack(self, batch: Sequence[Mapping[str, Any]], key: str, pad: float) -> Tensor:
        tensors = [sample[key].to(self.device, non_blocking=True) for sample in batch]
        return ImageList.from_tensors(tensors, self.size_divisibility, pad).tensor

    def _normalised(self, batch: Sequence[Mapping[str, Any]]) -> ImageList:
        images = [
            (sample[keys.IMAGE].to(self.device, non_blocking=True) - self.pixel_mean)
            / self.pixel_std
            for sample in batch
        ]
        return ImageList.from_tensors(images, self.size_divisibility)

    def images(self, batch: Sequence[Mapping[str, Any]]) -> Tensor:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return self._normalised(batch).tensor

    def normalised(self, pictures: Tensor) -> Tensor:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        channels = pictures.flip(1) if self.image_format == "BGR" else pictures
        return (channels * 255 - self.pixel_mean) / self.pixel_std

    def pictures(self, images: Tensor) -> Tensor:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        channels = (images * self.pixel_std + self.pixel_mean) / 255
        return channels.flip(1) if self.image_format == "BGR" else channels

    def semantic_heads(self) -> tuple[str, ...]:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return (SEMANTIC,) if self.auxiliary_head is None else (SEMANTIC, AUXILIARY)

    def frozen_copy(self) -> DenseSegmentor:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        losses = self.weighted_losses
        self._hold(None)
        try:
            copied = copy.deepcopy(self)
        finally:
            self._hold(losses)
        return copied.requires_grad_(False).eval()

    def frozen_encoder(self) -> nn.Module:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return copy.deepcopy(self.backbone).requires_grad_(False).eval()

    def targets(self, batch: Sequence[Mapping[str, Any]]) -> Targets:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        first, semantic, segments = batch[0], None, None
        if keys.SEM_SEG in first:
            semantic = self._stack(batch, keys.SEM_SEG, IGNORE_LABEL)
        if keys.SEGMENTS in first:
            tables = tuple(sample[keys.SEGMENTS_INFO] for sample in batch)
            segments = SegmentMaps(self._stack(batch, keys.SEGMENTS, 0), tables)
        own = {
            key: self._stack(batch, key, self.target_padding.get(key, 0))
            for key in self.target_entries
            if key in first
        }
        return Targets(semantic, segments, own or None)

    def features(
        self, images: Tensor, draws: Sequence[np.random.Generator] | None = None
    ) -> Features:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return self.backbone(images)

    def outputs(self, features: Features, image_size: Size, instances: bool = True) -> Outputs:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        auxiliary = None
        semantic = self._predicted(self.sem_seg_head, features, image_size)
        if self.training and self.auxiliary_head is not None:
            auxiliary = self._predicted(self.auxiliary_head, features, image_size)
        private = self.instance_outputs(features, image_size) if instances else None
        return Outputs(semantic, auxiliary, private)

    @staticmethod
    def _predicted(head: nn.Module, features: Features, image_size: Size) -> SemanticPrediction:
        classifier_features, logits = classifier_input_and_logits(head, features)
        return SemanticPrediction(logits, image_size, classifier_features)

    def instance_outputs(self, features: Features, image_size: Size) -> Any:
        """Runs the instance branch; returns the outputs' private part, or None without a branch."""
        return None

    def losses(
        self,
        outputs: Outputs,
        targets: Targets,
        pixel_weights: Tensor | None,
        term: str,
        log: WeightLog | None = None,
    ) -> Losses:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        assert self.weighted_losses is not None, "a frozen copy has no losses"
        calls = self.loss_calls(outputs, targets, pixel_weights)
        # Heads that take over another head's weights read them from this log.
        log = WeightLog() if log is None else log
        bound = {head: partial(call, term=term, log=log) for head, call in calls.items()}
        values = in_order(self.weighted_losses, bound)
        return {f"loss_{head}": self.loss_factors[head] * value for head, value in values.items()}

    def loss_calls(
        self, outputs: Outputs, targets: Targets, pixel_weights: Tensor | None
    ) -> dict[str, Callable[..., Tensor]]:
        """Returns by head the losses that have targets, as functions of ``term`` and ``log``."""
        assert self.weighted_losses is not None
        if targets.semantic is None:
            return {}
        predictions = zip(self.semantic_heads(), outputs.predictions(), strict=False)
        return {
            head: partial(
                self.weighted_losses[head],
                prediction.logits,
                targets.semantic,
                pixel_weights=pixel_weights,
                classifier=prediction.classifier,
            )
            for head, prediction in predictions
        }

    def pseudo_targets(self, outputs: Outputs, pseudo_labels: PixelPseudoLabels) -> Targets:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return Targets(semantic=pseudo_labels.labels)

    def mix_targets(self, mask: Tensor, source: Targets, target: Targets) -> Targets:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`.

        Private targets are mixed map by map; segments are dropped, because no loss here uses them.
        """
        semantic = private = None
        if source.semantic is not None and target.semantic is not None:
            semantic = mix(mask, source.semantic, target.semantic)
        if source.private is not None and target.private is not None:
            private = {
                key: mix(mask, source.private[key], value) for key, value in target.private.items()
            }
        return Targets(semantic=semantic, private=private)

    def pseudo_label_shift(self) -> Tensor | None:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        losses = self.weighted_losses
        return None if losses is None else losses[SEMANTIC].scheme.pseudo_label_shift()

    def forward(self, batch: Sequence[Mapping[str, Any]]) -> Any:
        """Returns supervised losses in training, Detectron2's per-image results in inference.

        Args:
            batch: samples with ``image``; ``height`` and ``width`` give a result's size in pixels.
        """
        if not self.training and len({sample[keys.IMAGE].shape for sample in batch}) > 1:
            # Images of different sizes run separately, because padding would change predictions.
            return [self([sample])[0] for sample in batch]
        images = self._normalised(batch)
        size = (images.tensor.shape[-2], images.tensor.shape[-1])
        outputs = self.outputs(self.features(images.tensor), size)
        if self.training:
            return self.losses(outputs, self.targets(batch), None, keys.TERM_SOURCE)
        return self.results(outputs, images.image_sizes, batch)

    def results(
        self, outputs: Outputs, image_sizes: Sequence[Size], batch: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Returns each image's result at its file's size; ``image_sizes`` are without padding."""
        maps = self.dense_maps(outputs)
        return [
            self.result({k: v[i] for k, v in maps.items()}, image_sizes[i], sample)
            for i, sample in enumerate(batch)
        ]

    def dense_maps(self, outputs: Outputs) -> dict[str, Tensor]:
        """Returns the dense predictions (N, C, H, W) by name, at the input's size."""
        return {SEMANTIC_LOGITS: outputs.semantic.dense()}

    def result(
        self, maps: Mapping[str, Tensor], image_size: Size, sample: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Computes one image's result at its file's size from its dense maps (C, H, W)."""
        size = result_size(sample, image_size)
        return {keys.SEM_SEG: sem_seg_postprocess(maps[SEMANTIC_LOGITS], image_size, *size)}

    def merge_views(
        self, views: Iterable[View], image_size: Size, sample: Mapping[str, Any]
    ) -> dict[str, Any]:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        maps = merged_maps(views, image_size, self.dense_maps, SEMANTIC_LOGITS, self.displacements)
        return self.result(maps, image_size, sample)

    def export_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        normalised = (images - self.pixel_mean) / self.pixel_std
        features, size = self.features(normalised), (images.shape[-2], images.shape[-1])
        return self.exported(self.outputs(features, size))

    def exported(self, outputs: Outputs) -> dict[str, Tensor]:
        """Returns by name what of the outputs is exported: maps at the images' size."""
        return self.dense_maps(outputs)


def result_size(sample: Mapping[str, Any], image_size: Size) -> Size:
    """Returns (rows, columns) of the result: the file's size if the sample has it."""
    return sample.get(keys.HEIGHT, image_size[0]), sample.get(keys.WIDTH, image_size[1])


def upsampled(maps: Tensor, size: Size) -> Tensor:
    """Resizes maps (N, C, h, w) bilinearly to ``size`` (rows, columns)."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
