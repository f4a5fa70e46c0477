"""The running mean that weights, and shares of the pixels, are followed with."""

from __future__ import annotations

import torch
from torch import Tensor

# Over a hundred batches: one alone says little about how rare a class is, or what it weighs.
MOMENTUM = 0.99


def updated_mean(
    mean: Tensor, batches: Tensor, value: Tensor, observed: Tensor
) -> tuple[Tensor, Tensor]:
    """Takes one batch into a running mean: the plain mean of the first hundred, then exponential.

    Args:
        mean: the mean so far; anything finite where nothing has been observed yet.
        batches: number of batches in it, of a shape that broadcasts to that of the mean.
        value: of this batch, of the mean's shape.
        observed: bool, of the shape of ``batches``: where this batch has a value.

    Returns:
        The new mean and the new number of batches.
    """
    momentum = (1 - 1 / (batches + 1)).clamp(max=MOMENTUM)
    blended = momentum * mean + (1 - momentum) * value
    return torch.where(observed, blended, mean), batches + observed
