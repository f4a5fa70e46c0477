"""The complete interface of a network to the engine and to the adaptation strategies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2.label_spaces import LabelSpace
from gbw_d2.losses import WeightedLoss, WeightedLosses
from gbw_d2.weighting.log import WeightLog

Batch = Sequence[dict[str, Any]]
Features = dict[str, Tensor]
Losses = dict[str, Tensor]
Size = tuple[int, int]  # rows, columns


@dataclass(frozen=True)
class HeadSpec:
    """A head of a network whose loss is weighted by class.

    Attributes:
        loss: the class of its loss; built with a scheme, these class ids, and the label space's
            number of classes.
        class_ids: class ids of the label space that have a weight, in order.
        has_classifier: whether ``losses`` passes a classifier's input and output to the loss, so
            that schemes can measure there.
        weights_from: head whose weights this one takes over by default, if both are weighted; None
            for its own weights.
    """

    loss: type[WeightedLoss]
    class_ids: tuple[int, ...]
    has_classifier: bool = False
    weights_from: str | None = None


@dataclass(frozen=True)
class SemanticPrediction:
    """Logits of a semantic head at its own resolution, and the size of the network's input.

    Attributes:
        logits: (N, K, h, w).
        size: (rows, columns) of the network's input.
        features: (N, D, h, w), the classifier's input; None if there is no classifier to measure
            at.
    """

    logits: Tensor
    size: Size
    features: Tensor | None = None

    @property
    def classifier(self) -> tuple[Tensor, Tensor] | None:
        """The input and output of the classifier at its resolution, or None."""
        return None if self.features is None else (self.features, self.logits)

    @cached_property
    def _upsampled(self) -> Tensor:
        return F.interpolate(self.logits, size=self.size, mode="bilinear", align_corners=False)

    def dense(self) -> Tensor:
        """Returns the logits (N, K, H, W) at ``size``, upsampled bilinearly, once."""
        return self._upsampled


@dataclass(frozen=True)
class Outputs:
    """The outputs of a network for a batch of images.

    Attributes:
        semantic: prediction of the semantic head.
        auxiliary: prediction of a second semantic head used in training only, or None.
        private: data for the network's own losses, pseudo-targets and results; opaque to all
            others.
    """

    semantic: SemanticPrediction
    auxiliary: SemanticPrediction | None = None
    private: Any = None

    def predictions(self) -> Iterator[SemanticPrediction]:
        """Yields the predictions of all semantic heads, the main one first."""
        yield self.semantic
        if self.auxiliary is not None:
            yield self.auxiliary


@dataclass(frozen=True)
class SegmentMaps:
    """The segments of a batch of label maps.

    Attributes:
        maps: (N, H, W) int32 segment ids, 0 = void.
        tables: per image, COCO dicts with ``id``, ``category_id`` (class id, 255 = not a class) and
            ``iscrowd``.
    """

    maps: Tensor
    tables: tuple[Sequence[Mapping[str, Any]], ...]


@dataclass(frozen=True)
class Targets:
    """The targets of a batch of images; a target that is None has no loss.

    Attributes:
        semantic: (N, H, W) int64 class ids, 255 = ignore.
        segments: the segments of the same images.
        private: the network's own targets for its instance heads, made by its target generator.
    """

    semantic: Tensor | None = None
    segments: SegmentMaps | None = None
    private: Any = None

    @property
    def has_instances(self) -> bool:
        """Whether there are targets for the network's instance heads."""
        return self.private is not None


@dataclass(frozen=True)
class TaughtSegments:
    """The segments that a teacher predicts in a batch of images, all on the device.

    Attributes:
        owners: (N, H, W) int64, segment number of each pixel, 0..S-1; 0 = void.
        classes: (N, S) int64 class id of each number, 255 = none; numbers may have no pixel.
        confidence: (N, H, W) float32 in 0..1, confidence of each pixel's segment; 0 on void.
        greatest: (N, H, W) float32 in 0..1, maximum confidence of all segments at the pixel.
    """

    owners: Tensor
    classes: Tensor
    confidence: Tensor
    greatest: Tensor


@dataclass(frozen=True)
class SegmentWorth:
    """Which of a teacher's segments a student is trained on, and with which weights.

    Attributes:
        reliable: (N, H, W) bool; the weight of a segment's mask is its share of reliable pixels.
        usable: (N, H, W) bool, pixels at which masks are trained.
        no_object: (N,) float32 in 0..1, weight of "no object".
        least_area: smaller segments are dropped, pixels.
        pixels: (N, H, W) float32 in 0..1, the resulting weights of pixels, for other losses.
    """

    reliable: Tensor
    usable: Tensor
    no_object: Tensor
    least_area: int
    pixels: Tensor


@dataclass(frozen=True)
class PixelPseudoLabels:
    """The semantic pseudo-labels that a strategy makes of a teacher's prediction.

    Attributes:
        labels: (N, H, W) int64 class ids; every pixel has one.
        confidence: (N, H, W) float32, probability of the label, 0..1.
        kept: (N, H, W) bool, False where pseudo-labels are ignored, such as on the ego vehicle's
            hood.
        thresholds: (K,) a pixel of a class is confident from this confidence on, 0..1.
    """

    labels: Tensor
    confidence: Tensor
    kept: Tensor
    thresholds: Tensor

    @property
    def confident(self) -> Tensor:
        """The confident pixels (N, H, W) bool among those that are kept."""
        return (self.confidence >= self.thresholds[self.labels]) & self.kept


@dataclass(frozen=True)
class View:
    """One resized, possibly mirrored view of an image, and the network's outputs on its windows.

    Attributes:
        shown: (rows, columns) of the resized image.
        flip: whether it was mirrored left to right.
        windows: pairs (place, outputs there as a batch of one), computed when iterated; place is
            (rows, columns) as slices of the resized image.
    """

    shown: Size
    flip: bool
    windows: Iterable[tuple[tuple[slice, slice], Outputs]]


class FrozenEncoder(Protocol):
    """An encoder without the rest of its network."""

    def __call__(self, images: Tensor) -> Features:
        """Maps (N, 3, H, W) to feature maps by name."""


class TargetGenerator(Protocol):
    """Makes a network's own label entries of a sample in loader processes, so it is picklable."""

    def __call__(
        self,
        class_map: np.ndarray,
        segment_map: np.ndarray | None,
        segments_info: Sequence[Mapping[str, Any]],
    ) -> dict[str, Tensor]:
        """Returns label entries by name.

        Args:
            class_map: (H, W) class ids, 255 = ignore, after crop and flip.
            segment_map: (H, W) segment ids, 0 = void; None where no instances are labelled.
            segments_info: COCO dicts with ``id``, ``category_id`` (class id, 255 = not a class) and
                ``iscrowd``; it may list segments outside the crop.
        """
        ...


class SegmentationModel(Protocol):
    """A segmentation network, an ``nn.Module`` in Detectron2's ``META_ARCH_REGISTRY``.

    Sizes: N images, K classes, H x W input pixels. Built as ``Architecture(cfg)``.
    """

    # The classes that the network predicts.
    label_space: LabelSpace
    # The encoder, trained at SOLVER.BASE_LR; all else is trained at HEAD_LR_FACTOR times that.
    backbone: nn.Module
    # The losses of its heads; no sub-module, and None in frozen copies.
    weighted_losses: WeightedLosses | None
    # How often a training step waits for the device, in addition to the engine's waits.
    waits_per_step: int

    @classmethod
    def heads(cls, cfg: Any, space: LabelSpace) -> dict[str, HeadSpec]:
        """Returns the heads that a network of this config has, by name."""
        ...

    @classmethod
    def predicts_instances(cls, cfg: Any) -> bool:
        """Whether the network predicts instances, so that labels need them and PQ is computed."""
        ...

    @classmethod
    def target_generator(cls, cfg: Any, space: LabelSpace) -> TargetGenerator:
        """Returns the generator of the network's own label entries."""
        ...

    def semantic_heads(self) -> tuple[str, ...]:
        """Returns the names of the predictions in training, the main one first."""
        ...

    def images(self, batch: Batch) -> Tensor:
        """Moves, normalises and stacks a batch's images into (N, 3, H, W)."""
        ...

    def normalised(self, pictures: Tensor) -> Tensor:
        """Normalises images (N, 3, H, W), RGB in 0..1, to the network's input."""
        ...

    def pictures(self, images: Tensor) -> Tensor:
        """Maps the network's input (N, 3, H, W) back to images, RGB in 0..1."""
        ...

    def targets(self, batch: Batch) -> Targets:
        """Moves and stacks the batch's label entries; entries that a batch lacks are None."""
        ...

    def features(
        self, images: Tensor, draws: Sequence[np.random.Generator] | None = None
    ) -> Features:
        """Runs the encoder, which maps (N, 3, H, W) to feature maps by name.

        Args:
            images: the result of :meth:`images`.
            draws: one generator per image, keyed by its sample, for networks that draw crops or
                RoIs in training; None in inference.
        """
        ...

    def outputs(self, features: Features, image_size: Size, instances: bool = True) -> Outputs:
        """Runs the heads.

        Args:
            features: the result of :meth:`features`.
            image_size: (rows, columns) of the network's input.
            instances: whether to run the instance heads.
        """
        ...

    def losses(
        self,
        outputs: Outputs,
        targets: Targets,
        pixel_weights: Tensor | None,
        term: str,
        log: WeightLog | None = None,
    ) -> Losses:
        """Returns the losses whose targets are present: ``loss_<head>``, and any without classes.

        Args:
            outputs: the result of :meth:`outputs`.
            targets: a loss exists if and only if its target does.
            pixel_weights: (N, H, W) in 0..1, pseudo-label confidence for the semantic losses; None
                = 1 everywhere. Instance targets have their own weights.
            term: which images these are (``keys.TERM_*``); weighting keeps its state per term.
            log: receives the class weights that the losses used.
        """
        ...

    def pseudo_targets(self, outputs: Outputs, pseudo_labels: PixelPseudoLabels) -> Targets:
        """Makes targets of a teacher's outputs: pseudo-labels, and instances if it predicts any.

        Args:
            outputs: outputs of a frozen copy of this network, with instances.
            pseudo_labels: the strategy's pseudo-labels by the semantic prediction.
        """
        ...

    def mix_targets(self, mask: Tensor, source: Targets, target: Targets) -> Targets:
        """Pastes the targets of one batch onto those of another.

        Args:
            mask: (N, H, W) bool, True where the source's pixel is pasted.
            source: targets of the images that are pasted.
            target: targets of the images underneath. The mixture lacks what either lacks.
        """
        ...

    def pseudo_label_shift(self) -> Tensor | None:
        """Returns (K,) to add to semantic logits before pseudo-labels are taken, or None for 0.

        It removes prior shift that class weights cause, by ``WEIGHTING.PSEUDO_LABEL_ADJUSTMENT``. A
        teacher's logits get the shift of its student.
        """
        ...

    def frozen_copy(self) -> SegmentationModel:
        """Returns a copy of the whole network without gradients, in evaluation mode."""
        ...

    def frozen_encoder(self) -> FrozenEncoder:
        """Returns a copy of the encoder without gradients, in evaluation mode."""
        ...

    def merge_views(
        self, views: Iterable[View], image_size: Size, sample: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merges the network's outputs on several views of one image into one result.

        Args:
            views: views in any order; each is iterated once.
            image_size: (rows, columns) of the image at the network's resolution.
            sample: ``height`` and ``width`` give the result's size in pixels.

        Returns:
            The result of that image, as in inference.
        """
        ...

    def export_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images to plain tensors, for torch.export and ONNX.

        Args:
            images: (N, 3, H, W) float32, 0..255, in INPUT.FORMAT order.

        Returns:
            name -> float32 tensor: maps (N, C, H, W), or what else the network has per image.
        """
        ...

    def __call__(self, batch: Batch) -> list[dict[str, Any]]:
        """Runs inference in Detectron2's format.

        Per image ``sem_seg`` (K, H, W) logits, and with instances ``panoptic_seg``, whose segments
        carry ``id``, ``category_id`` (class id), ``isthing`` and ``score``.
        """
        ...
