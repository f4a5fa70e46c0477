"""What the engine and the adaptation strategies may ask of any network, and nothing else of it."""

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
        class_ids: class ids of the label space that its weights belong to, in order.
        has_classifier: whether ``losses`` hands the loss a classifier's input and output, so that
            schemes can measure there.
        weights_from: head whose weights this one takes over, where both are weighted and nobody
            says otherwise; None for weights of its own.
    """

    loss: type[WeightedLoss]
    class_ids: tuple[int, ...]
    has_classifier: bool = False
    weights_from: str | None = None


@dataclass(frozen=True)
class SemanticPrediction:
    """Logits of a semantic head at its own resolution, and the size that they stand for.

    Attributes:
        logits: (N, K, h, w).
        size: (rows, columns) of the network's input.
        features: (N, D, h, w), the classifier's input; None where there is none to measure at.
    """

    logits: Tensor
    size: Size
    features: Tensor | None = None

    @property
    def classifier(self) -> tuple[Tensor, Tensor] | None:
        """Input and output of the classifier at its resolution, None where there is none."""
        return None if self.features is None else (self.features, self.logits)

    @cached_property
    def _upsampled(self) -> Tensor:
        return F.interpolate(self.logits, size=self.size, mode="bilinear", align_corners=False)

    def dense(self) -> Tensor:
        """Returns the logits (N, K, H, W) at ``size``, upsampled bilinearly, once."""
        return self._upsampled


@dataclass(frozen=True)
class Outputs:
    """What a network says of a batch of images.

    Attributes:
        semantic: of the semantic head.
        auxiliary: of a second semantic head that serves training alone; None where there is none.
        private: what the network's own losses, pseudo-targets and results need; opaque to all
            others.
    """

    semantic: SemanticPrediction
    auxiliary: SemanticPrediction | None = None
    private: Any = None

    def predictions(self) -> Iterator[SemanticPrediction]:
        """Yields the predictions of the semantic heads that there are, the main one first."""
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
    """What a network learns from, of a batch of images; what is None has no loss.

    Attributes:
        semantic: (N, H, W) int64 class ids, 255 = ignore.
        segments: the segments of the same images.
        private: the network's own targets of its instance heads, made by its target generator.
    """

    semantic: Tensor | None = None
    segments: SegmentMaps | None = None
    private: Any = None

    @property
    def has_instances(self) -> bool:
        """Whether there is something for the network's instance heads to learn from."""
        return self.private is not None


@dataclass(frozen=True)
class TaughtSegments:
    """The segments that a teacher finds in a batch of images; nothing of them is on the host.

    Attributes:
        owners: (N, H, W) int64, number of each pixel's segment, 0..S-1; 0 = void.
        classes: (N, S) int64 class ids by number, 255 = none; numbers may be without a pixel.
        confidence: (N, H, W) float32 in 0..1, of each pixel's own segment there; 0 on void.
        greatest: (N, H, W) float32 in 0..1, the greatest confidence of any segment there.
    """

    owners: Tensor
    classes: Tensor
    confidence: Tensor
    greatest: Tensor


@dataclass(frozen=True)
class SegmentWorth:
    """What of a teacher's segments a student shall learn from, and how much.

    Attributes:
        reliable: (N, H, W) bool; a segment's mask counts as the share of these among its pixels.
        usable: (N, H, W) bool, pixels at which masks are learned.
        no_object: (N,) float32 in 0..1, how much it counts that there is nothing else.
        least_area: smaller segments are none, pixels.
        pixels: (N, H, W) float32 in 0..1, the weights of pixels that follow: for other losses.
    """

    reliable: Tensor
    usable: Tensor
    no_object: Tensor
    least_area: int
    pixels: Tensor


@dataclass(frozen=True)
class PixelPseudoLabels:
    """What a strategy makes of a teacher's semantic prediction.

    Attributes:
        labels: (N, H, W) int64 class ids; every pixel has one.
        confidence: (N, H, W) float32, probability of the label, 0..1.
        kept: (N, H, W) bool, False where no pseudo-label counts, as on the own car's hood.
        thresholds: (K,) confidence from which on the strategy calls a pixel of a class confident.
    """

    labels: Tensor
    confidence: Tensor
    kept: Tensor
    thresholds: Tensor

    @property
    def confident(self) -> Tensor:
        """(N, H, W) bool, the confident pixels among those that are kept."""
        return (self.confidence >= self.thresholds[self.labels]) & self.kept


@dataclass(frozen=True)
class View:
    """One image as it was shown to a network: resized, perhaps mirrored, in windows.

    Attributes:
        shown: (rows, columns) of the resized image.
        flip: whether it was mirrored left to right.
        windows: (place, outputs of that place as a batch of one), made while they are read; place
            is (rows, columns) as slices of the resized image.
    """

    shown: Size
    flip: bool
    windows: Iterable[tuple[tuple[slice, slice], Outputs]]


class FrozenEncoder(Protocol):
    """An encoder by itself."""

    def __call__(self, images: Tensor) -> Features:
        """Maps (N, 3, H, W) to feature maps by name."""


class TargetGenerator(Protocol):
    """Makes a network's own label entries of one sample; runs in loader processes, so picklable."""

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
                ``iscrowd``; may list segments that the crop does not show.
        """
        ...


class SegmentationModel(Protocol):
    """A segmentation network, an ``nn.Module`` in Detectron2's ``META_ARCH_REGISTRY``.

    Sizes: N images, K classes, H x W input pixels. Built as ``Architecture(cfg)``.
    """

    # The classes that are predicted.
    label_space: LabelSpace
    # The encoder: it learns at SOLVER.BASE_LR, all else at HEAD_LR_FACTOR times that.
    backbone: nn.Module
    # The losses of its heads; no sub-module, and None in frozen copies.
    weighted_losses: WeightedLosses | None
    # How often a training step waits for the device, beyond what the engine does.
    waits_per_step: int

    @classmethod
    def heads(cls, cfg: Any, space: LabelSpace) -> dict[str, HeadSpec]:
        """Returns the heads that a network of this config has, by name."""
        ...

    @classmethod
    def predicts_instances(cls, cfg: Any) -> bool:
        """Whether instances are read from labels, and PQ is asked for."""
        ...

    @classmethod
    def target_generator(cls, cfg: Any, space: LabelSpace) -> TargetGenerator:
        """Returns what makes the network's own label entries."""
        ...

    def semantic_heads(self) -> tuple[str, ...]:
        """Names the predictions that ``outputs`` has in training, the main one first."""
        ...

    def images(self, batch: Batch) -> Tensor:
        """Moves, normalises and stacks a batch's images into (N, 3, H, W)."""
        ...

    def normalised(self, pictures: Tensor) -> Tensor:
        """Turns pictures (N, 3, H, W), RGB in 0..1, into the network's input."""
        ...

    def pictures(self, images: Tensor) -> Tensor:
        """Turns the network's input (N, 3, H, W) back into pictures, RGB in 0..1."""
        ...

    def targets(self, batch: Batch) -> Targets:
        """Moves and stacks the batch's label entries; what a batch lacks is None."""
        ...

    def features(
        self, images: Tensor, draws: Sequence[np.random.Generator] | None = None
    ) -> Features:
        """Runs the encoder: (N, 3, H, W) -> feature maps by name.

        Args:
            images: of :meth:`images`.
            draws: one generator per image, keyed by its sample, for networks that draw crops of
                their own in training; None in inference.
        """
        ...

    def outputs(self, features: Features, image_size: Size, instances: bool = True) -> Outputs:
        """Runs the heads.

        Args:
            features: of :meth:`features`.
            image_size: (rows, columns) of the network's input.
            instances: False leaves out what only instances need.
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
            outputs: of :meth:`outputs`.
            targets: a loss exists if and only if its target does.
            pixel_weights: (N, H, W) in 0..1, pseudo-label confidence for the semantic losses; None
                = 1 everywhere. Instance targets bring weights of their own.
            term: which images these are (``keys.TERM_*``); weighting keeps its state per term.
            log: takes what the losses used.
        """
        ...

    def pseudo_targets(self, outputs: Outputs, pseudo_labels: PixelPseudoLabels) -> Targets:
        """Makes targets of a teacher's outputs: its pseudo-labels, and instances where it has any.

        Args:
            outputs: of a frozen copy of this network, with instances.
            pseudo_labels: what the strategy made of the semantic prediction.
        """
        ...

    def mix_targets(self, mask: Tensor, source: Targets, target: Targets) -> Targets:
        """Pastes the targets of one batch onto those of another.

        Args:
            mask: (N, H, W) bool, True where the source's pixel is pasted.
            source: targets of the images that are pasted.
            target: targets of the images beneath. What either lacks, the mixture lacks.
        """
        ...

    def pseudo_label_shift(self) -> Tensor | None:
        """Returns (K,) to add to the semantic logits that pseudo-labels are made of, None for 0.

        It takes out what class weights have put into them, where
        ``WEIGHTING.PSEUDO_LABEL_ADJUSTMENT`` asks for it. A teacher's logits get its student's.
        """
        ...

    def frozen_copy(self) -> SegmentationModel:
        """Returns a copy of the whole network that never gets gradients, in evaluation mode."""
        ...

    def frozen_encoder(self) -> FrozenEncoder:
        """Returns a copy of the encoder that never gets gradients, in evaluation mode."""
        ...

    def merge_views(
        self, views: Iterable[View], image_size: Size, sample: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merges what the network said of several views of one image into one result.

        Args:
            views: in any order; each is read once.
            image_size: (rows, columns) of the image at the network's resolution.
            sample: ``height`` and ``width`` give the result's size in pixels.

        Returns:
            As the network's inference result of that image.
        """
        ...

    def export_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images to plain tensors, for torch.export and ONNX.

        Args:
            images: (N, 3, H, W) float32, 0..255, in INPUT.FORMAT order.

        Returns:
            name -> (N, C, H, W) float32.
        """
        ...

    def __call__(self, batch: Batch) -> list[dict[str, Any]]:
        """Runs inference in Detectron2's format.

        Per image ``sem_seg`` (K, H, W) logits, and with instances ``panoptic_seg``, whose segments
        carry ``id``, ``category_id`` (class id), ``isthing`` and ``score``.
        """
        ...
