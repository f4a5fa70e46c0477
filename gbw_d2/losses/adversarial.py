"""Adversarial losses, which compare a discriminator's scores with a domain's label."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gbw_d2.registry import Registry

# Labels of the two domains.
SOURCE_DOMAIN = 0.0
TARGET_DOMAIN = 1.0

ADVERSARIAL_LOSSES: Registry[Callable[[Tensor, float], Tensor]] = Registry(
    "adversarial loss (UDA.ADVERSARIAL.LOSS)"
)


@ADVERSARIAL_LOSSES.register("binary_cross_entropy")
def adversarial_cross_entropy(scores: Tensor, domain: float) -> Tensor:
    """Computes the mean binary cross-entropy of scores (Tsai et al., CVPR 2018, equation 2).

    Args:
        scores: logits of any shape and floating dtype.
        domain: 0 source or 1 target.

    Returns:
        A tensor without axes, >= 0; ln 2 for scores of 0.
    """
    wide = _wide(scores)
    return F.binary_cross_entropy_with_logits(wide, torch.full_like(wide, domain))


@ADVERSARIAL_LOSSES.register("least_squares")
def adversarial_least_squares(scores: Tensor, domain: float) -> Tensor:
    """Computes the mean squared distance of scores to the label (Mao et al., ICCV 2017).

    Args:
        scores: of any shape and floating dtype, no sigmoid.
        domain: 0 source or 1 target.

    Returns:
        A tensor without axes, >= 0.
    """
    return (_wide(scores) - domain).square().mean()


def _wide(scores: Tensor) -> Tensor:
    return scores if scores.dtype == torch.float64 else scores.float()
