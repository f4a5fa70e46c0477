"""The type of a loss of an instance head as networks see it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class InstanceCriterion(Protocol):
    """A centre or offset loss: ``gbw_d2.losses.ClassWeightedInstanceLoss`` with any scheme."""

    def __call__(
        self,
        prediction: Tensor,
        target: Tensor,
        weights: Tensor,
        instance_class: Tensor,
        pixel_weights: Tensor | None = None,
        term: str = ...,
    ) -> Tensor:
        """Returns the scalar loss of a prediction (N, 1 or 2, H, W) at label resolution."""
        ...
