"""What an adaptation strategy may ask of any network; nothing else of a model is visible to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from gbw_d2.label_spaces import LabelSpace

Features = dict[str, Tensor]
Outputs = dict[str, Tensor]
Targets = dict[str, Tensor]
Losses = dict[str, Tensor]


class FrozenEncoder(Protocol):
    """An encoder by itself."""

    def __call__(self, images: Tensor) -> Features:
        """Maps (N, 3, H, W) to feature maps by name."""
        ...


class SegmentationModel(Protocol):
    """A segmentation network as strategies see it.

    Sizes: N images, K classes, H x W input pixels. Entries are named in ``gbw_d2/keys.py``.
    """

    # The classes that are predicted.
    label_space: LabelSpace

    def logit_names(self) -> tuple[str, ...]:
        """Returns the ``outputs`` entries that hold semantic logits in training, the main first."""
        ...

    def images(self, batch: Sequence[dict[str, Any]]) -> Tensor:
        """Moves, normalises and stacks a batch's images into (N, 3, H, W)."""
        ...

    def normalised(self, pictures: Tensor) -> Tensor:
        """Turns pictures (N, 3, H, W), RGB in 0..1, into the network's input."""
        ...

    def pictures(self, images: Tensor) -> Tensor:
        """Turns the network's input (N, 3, H, W) back into pictures, RGB in 0..1."""
        ...

    def targets(self, batch: Sequence[dict[str, Any]]) -> Targets:
        """Moves and stacks the batch's label entries; {} where there are none."""
        ...

    def features(self, images: Tensor) -> Features:
        """Runs the encoder: (N, 3, H, W) -> feature maps by name."""
        ...

    def outputs(self, features: Features, image_size: tuple[int, int]) -> Outputs:
        """Runs the heads: logits at ``image_size`` (rows, columns), and what the losses need."""
        ...

    def semantic_outputs(self, features: Features, image_size: tuple[int, int]) -> Outputs:
        """Runs the semantic heads alone: what :meth:`outputs` gives, less any instance branch."""
        ...

    def losses(
        self, outputs: Outputs, targets: Targets, pixel_weights: Tensor | None, term: str
    ) -> Losses:
        """Returns the weighted losses whose targets are present.

        Args:
            outputs: of :meth:`outputs`.
            targets: label entries; a loss exists if and only if its target does.
            pixel_weights: (N, H, W) in 0..1, pseudo-label confidence for the semantic losses; None
                = 1 everywhere. Instance targets bring weights of their own.
            term: which images these are (``keys.TERM_*``); weighting keeps its state per term.
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

    def __call__(self, batch: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Runs inference in Detectron2's format."""
        ...
