"""The running mean of class weights and of the classes' shares of the pixels."""

from __future__ import annotations

import torch
from torch import Tensor

# The mean covers about a hundred batches, because a single one says little about a class's
# frequency or weight.
MOMENTUM = 0.99


def updated_mean(
    mean: Tensor, batches: Tensor, value: Tensor, observed: Tensor
) -> tuple[Tensor, Tensor]:
    """Updates a running mean: plain over the first hundred batches, exponential thereafter.

    Args:
        mean: the mean so far; anything finite where nothing has been observed yet.
        batches: number of batches in it, of a shape that broadcasts to that of the mean.
        value: this batch's value, of the mean's shape.
        observed: bool, of the shape of ``batches``: where this batch has a value.

    Returns:
        The new mean and the new number of batches.
    """
    momentum = (1 - (batches + 1).reciprocal()).clamp(max=MOMENTUM)
    blended = momentum * mean + (1 - momentum) * value
    return torch.where(observed, blended, mean), batches + observed
