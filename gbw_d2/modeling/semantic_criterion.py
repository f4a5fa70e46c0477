"""The type of a semantic loss as networks see it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class SemanticCriterion(Protocol):
    """A semantic loss: ``gbw_d2.losses.ClassWeightedCrossEntropy`` with any weighting scheme."""

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        pixel_weights: Tensor | None = None,
        classifier: tuple[Tensor, Tensor] | None = None,
        term: str = ...,
    ) -> Tensor:
        """Returns the scalar loss of logits (N, K, H, W) against labels (N, H, W), 255 = ignore."""
        ...

    def pseudo_label_shift(self) -> Tensor | None:
        """Returns (K,) to add to the logits that pseudo-labels are made of, or None for 0."""
        ...
