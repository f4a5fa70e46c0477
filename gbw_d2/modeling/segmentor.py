"""What every architecture shares: images in, encoder, semantic head, dense logits, losses."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL, LABEL_SPACES, LabelSpace
from gbw_d2.losses import plain_cross_entropy
from gbw_d2.modeling import backbones  # noqa: F401  (registers them)
from gbw_d2.modeling.heads.auxiliary import build_auxiliary_head
from gbw_d2.modeling.instance_criterion import InstanceCriterion
from gbw_d2.modeling.protocol import Features, Losses, Outputs, Targets
from gbw_d2.modeling.semantic_criterion import SemanticCriterion

from detectron2.modeling import build_backbone, build_sem_seg_head
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList

# Value with which each label entry is padded where an image is smaller than its batch.
_PADDING = {keys.SEM_SEG: IGNORE_LABEL, keys.INSTANCE_CLASS: IGNORE_LABEL}


def classifier_input_and_logits(head: nn.Module, features: Features) -> tuple[Tensor, Tensor]:
    """Runs a semantic head of Detectron2 and keeps the input of its last layer, ``predictor``.

    Returns:
        features (N, D, h, w) that the classifier reads, and its logits (N, K, h, w).
    """
    recorded: list[tuple[Tensor, Tensor]] = []
    hook = head.predictor.register_forward_hook(
        lambda _module, inputs, output: recorded.append((inputs[0], output))
    )
    try:
        head.layers(features)
    finally:
        hook.remove()
    return recorded[-1]


class DenseSegmentor(nn.Module):
    """A backbone and a semantic head of Detectron2, with class-weighted cross-entropy.

    Architectures derive from it and add their instance branch.

    Args:
        backbone: maps (N, 3, H, W) to feature maps by name.
        sem_seg_head: a Detectron2 head with ``layers(features)`` and a final ``predictor``.
        auxiliary_head: a second head of the same form for training, or None.
        label_space: the classes that are predicted.
        pixel_mean: per channel, 0..255, in ``INPUT.FORMAT`` order.
        pixel_std: likewise.
        semantic_loss_weight: factor of the semantic loss.
        auxiliary_loss_weight: factor of the auxiliary loss.
        image_format: order of the images' channels, RGB or BGR.
        criteria: criterion by head name, of ``weighted_heads``; a head that is not named has its
            plain loss.

    Attributes:
        weighted_heads: heads whose loss can be weighted by class (``WEIGHTING.HEADS``).
    """

    weighted_heads: tuple[str, ...] = ("semantic", "auxiliary")

    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        auxiliary_head: nn.Module | None,
        label_space: LabelSpace,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        semantic_loss_weight: float,
        auxiliary_loss_weight: float,
        image_format: str = "RGB",
        criteria: Mapping[str, SemanticCriterion | InstanceCriterion] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.auxiliary_head = auxiliary_head
        self.label_space = label_space
        self.semantic_loss_weight = semantic_loss_weight
        self.auxiliary_loss_weight = auxiliary_loss_weight
        self.image_format = image_format
        # Not sub-modules: their running state is saved beside the network, not inside it.
        self.criteria = {**self.plain_criteria(), **(criteria or {})}
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    def plain_criteria(self) -> dict[str, SemanticCriterion | InstanceCriterion]:
        """Returns the loss without class weights of each head of ``weighted_heads``."""
        classes = self.label_space.num_classes
        return {head: plain_cross_entropy(classes) for head in ("semantic", "auxiliary")}

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
        head = build_sem_seg_head(cfg, shape)
        if not (hasattr(head, "layers") and hasattr(head, "predictor")):
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NAME '{cfg.MODEL.SEM_SEG_HEAD.NAME}' has no `layers` and "
                "`predictor`; use PanopticDeepLabSemSegHead, DeepLabV3PlusHead, DeepLabV2Head or "
                "SemSegFPNHead"
            )
        return {
            "backbone": backbone,
            "sem_seg_head": head,
            "auxiliary_head": build_auxiliary_head(cfg, shape),
            "label_space": LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "semantic_loss_weight": cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT,
            "auxiliary_loss_weight": cfg.MODEL.AUXILIARY_HEAD.LOSS_WEIGHT,
            "image_format": cfg.INPUT.FORMAT,
        }

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return self.pixel_mean.device

    def _stack(self, batch: Sequence[dict[str, Any]], key: str) -> Tensor:
        tensors = [sample[key].to(self.device, non_blocking=True) for sample in batch]
        pad = float(_PADDING.get(key, 0))
        return ImageList.from_tensors(tensors, self.backbone.size_divisibility, pad).tensor

    def _normalised(self, batch: Sequence[dict[str, Any]]) -> ImageList:
        images = [
            (sample[keys.IMAGE].to(self.device, non_blocking=True) - self.pixel_mean)
            / self.pixel_std
            for sample in batch
        ]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def images(self, batch: Sequence[dict[str, Any]]) -> Tensor:
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

    def logit_names(self) -> tuple[str, ...]:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        if self.auxiliary_head is None:
            return (keys.SEMANTIC_LOGITS,)
        return (keys.SEMANTIC_LOGITS, keys.AUXILIARY_LOGITS)

    def frozen_copy(self) -> DenseSegmentor:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        # Criteria hold the last call's tensors and the running means; a copy has no use for them.
        criteria, self.criteria = self.criteria, {}
        try:
            copied = copy.deepcopy(self)
        finally:
            self.criteria = criteria
        return copied.requires_grad_(False).eval()

    def frozen_encoder(self) -> nn.Module:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return copy.deepcopy(self.backbone).requires_grad_(False).eval()

    def targets(self, batch: Sequence[dict[str, Any]]) -> Targets:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return {key: self._stack(batch, key) for key in self.target_keys() if key in batch[0]}

    def target_keys(self) -> tuple[str, ...]:
        """Names of the label entries that this architecture has losses for."""
        return (keys.SEM_SEG,)

    def features(self, images: Tensor) -> Features:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return self.backbone(images)

    def outputs(self, features: Features, image_size: tuple[int, int]) -> Outputs:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return self.semantic_outputs(features, image_size)

    def semantic_outputs(self, features: Features, image_size: tuple[int, int]) -> Outputs:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        classifier_features, logits = classifier_input_and_logits(self.sem_seg_head, features)
        outputs = {
            keys.CLASSIFIER_FEATURES: classifier_features,
            keys.CLASSIFIER_LOGITS: logits,
            keys.SEMANTIC_LOGITS: upsampled(logits, image_size),
        }
        if self.training and self.auxiliary_head is not None:
            aux_features, aux_logits = classifier_input_and_logits(self.auxiliary_head, features)
            outputs[keys.AUXILIARY_FEATURES] = aux_features
            outputs[keys.AUXILIARY_CLASSIFIER_LOGITS] = aux_logits
            outputs[keys.AUXILIARY_LOGITS] = upsampled(aux_logits, image_size)
        return outputs

    def losses(
        self, outputs: Outputs, targets: Targets, pixel_weights: Tensor | None, term: str
    ) -> Losses:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        if keys.SEM_SEG not in targets:
            return {}
        labels = targets[keys.SEM_SEG]
        losses = {
            keys.LOSS_SEMANTIC: self.semantic_loss_weight
            * self.criteria["semantic"](
                outputs[keys.SEMANTIC_LOGITS],
                labels,
                pixel_weights=pixel_weights,
                classifier=(outputs[keys.CLASSIFIER_FEATURES], outputs[keys.CLASSIFIER_LOGITS]),
                term=term,
            )
        }
        if keys.AUXILIARY_LOGITS in outputs:
            losses[keys.LOSS_AUXILIARY] = self.auxiliary_loss_weight * self.criteria["auxiliary"](
                outputs[keys.AUXILIARY_LOGITS],
                labels,
                pixel_weights=pixel_weights,
                classifier=(
                    outputs[keys.AUXILIARY_FEATURES],
                    outputs[keys.AUXILIARY_CLASSIFIER_LOGITS],
                ),
                term=term,
            )
        return losses

    def pseudo_label_shift(self) -> Tensor | None:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return self.criteria["semantic"].pseudo_label_shift()

    def forward(self, batch: Sequence[dict[str, Any]]) -> Any:
        """Returns supervised losses in training, Detectron2's per-image results in inference.

        Args:
            batch: samples with ``image``; ``height`` and ``width`` give a result's size in pixels.
        """
        images = self._normalised(batch)
        size = (images.tensor.shape[-2], images.tensor.shape[-1])
        outputs = self.outputs(self.features(images.tensor), size)
        if self.training:
            return self.losses(outputs, self.targets(batch), None, keys.TERM_SOURCE)
        return [
            self.result({k: v[i] for k, v in outputs.items()}, images.image_sizes[i], sample)
            for i, sample in enumerate(batch)
        ]

    def result(
        self, outputs: Outputs, image_size: tuple[int, int], sample: dict[str, Any]
    ) -> dict[str, Any]:
        """Turns one image's outputs (no batch axis) into its result at the file's size."""
        height, width = result_size(sample, image_size)
        logits = sem_seg_postprocess(outputs[keys.SEMANTIC_LOGITS], image_size, height, width)
        return {keys.SEM_SEG: logits}


def result_size(sample: Mapping[str, Any], image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns (rows, columns) of the result: of the file on disk where the sample names it."""
    return sample.get(keys.HEIGHT, image_size[0]), sample.get(keys.WIDTH, image_size[1])


def upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes maps (N, C, h, w) bilinearly to ``size`` (rows, columns)."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
