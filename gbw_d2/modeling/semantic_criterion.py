"""The type of a semantic loss as networks see it, and the plain one they use when given none."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from gbw_d2.losses import ClassWeightedCrossEntropy
from gbw_d2.weighting import build_scheme


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


def plain_cross_entropy(num_classes: int) -> SemanticCriterion:
    """Returns cross-entropy with all class weights 1, through the same code as every other scheme."""
    return ClassWeightedCrossEntropy(build_scheme("none", num_classes))
