"""The released loss, implemented as its formula is written, and random inputs for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gbw_d2.weighting import solve_gbw_cvxopt


def released_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes the released formula (docs/equations.md 1) step by step, as it is written there.

    One-hot labels, autograd for the norms, cvxopt for the programme, then weighted cross-entropy.

    Args:
        logits: (N, K, H, W).
        labels: (N, H, W), 255 = ignore.

    Returns:
        The mean over all pixels of w_y CE.
    """
    classes = logits.shape[1]
    leaf = logits.detach().clone().requires_grad_()
    valid = labels != 255
    one_hot = F.one_hot(torch.where(valid, labels, classes), classes + 1)[..., :-1]
    one_hot = one_hot.permute(0, 3, 1, 2)
    per_class = -(leaf.log_softmax(dim=1) * one_hot).sum(dim=(0, 2, 3))
    (per_class / (one_hot.sum(dim=(0, 2, 3)) + 1)).sum().backward()
    squared_norms = leaf.grad.square().sum(dim=(0, 2, 3))
    weights = solve_gbw_cvxopt(squared_norms / 2, classes).to(logits)
    each = F.cross_entropy(logits, labels, weight=weights, ignore_index=255, reduction="none")
    return each.mean()


def random_batch(shape: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Draws logits, and labels whose class frequencies are as uneven as in streets."""
    n, classes, height, width = shape
    generator = torch.Generator().manual_seed(0)
    shares = torch.arange(1, classes + 1, dtype=torch.float).pow(-2)
    coarse = torch.multinomial(shares, n * (height // 8) * (width // 8), True, generator=generator)
    labels = coarse.view(n, height // 8, width // 8)
    labels = labels.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2).clone()
    labels[:, : height // 16] = 255
    logits = torch.randn(*shape, generator=generator)
    return logits.to(device), labels.to(device)
