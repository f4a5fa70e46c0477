"""What an adaptation strategy may ask of any network; nothing else of a model is visible to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

Features = dict[str, Tensor]
Outputs = dict[str, Tensor]
Targets = dict[str, Tensor]
Losses = dict[str, Tensor]


class SegmentationModel(Protocol):
    """A segmentation network as strategies see it.

    Sizes: N images, K classes, H x W input pixels. Entries are named in ``gbw_d2/keys.py``.
    """

    def images(self, batch: Sequence[dict[str, Any]]) -> Tensor:
        """Moves, normalises and stacks a batch's images into (N, 3, H, W)."""
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

    def losses(
        self, outputs: Outputs, targets: Targets, pixel_weights: Tensor | None, term: str
    ) -> Losses:
        """Returns the weighted losses whose targets are present.

        Args:
            outputs: of :meth:`outputs`.
            targets: label entries; a loss exists if and only if its target does.
            pixel_weights: (N, H, W) in 0..1, pseudo-label confidence; None = 1 everywhere.
            term: which images these are (``keys.TERM_*``); weighting keeps its state per term.
        """
        ...

    def __call__(self, batch: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Runs inference in Detectron2's format."""
        ...
