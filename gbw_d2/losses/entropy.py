"""The entropy loss of predictions on unlabelled images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def entropy_loss(logits: Tensor) -> Tensor:
    """Computes the mean normalised entropy (MinEnt, Vu et al. 2019): 1 if uniform, 0 if one-hot.

    -1 / (B H W log K) sum p log p.

    Args:
        logits: (B, K, H, W), any floating dtype, K >= 2.

    Returns:
        A tensor without axes, 0..1.

    Raises:
        ValueError: logits without four axes or with fewer than two classes.
    """
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected (B, K >= 2, H, W)")
    wide = logits if logits.dtype == torch.float64 else logits.float()
    log_probabilities = F.log_softmax(wide, 1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(1)
    return entropy.mean() / math.log(logits.shape[1])
