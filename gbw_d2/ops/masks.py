"""Pasting one image, or its targets, onto another."""

from __future__ import annotations

import torch
from torch import Tensor


def mix(mask: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Returns the source where the mask is True and the target elsewhere.

    Args:
        mask: (N, H, W) bool.
        source: (N, H, W) labels or weights, or (N, C, H, W) images.
        target: of the source's shape and dtype.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    size = (mask.shape[0], *mask.shape[1:])
    if source.shape != target.shape or (source.shape[0], *source.shape[-2:]) != size:
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)}, source {tuple(source.shape)} and target "
            f"{tuple(target.shape)} cannot be mixed; source and target crops must have the "
            "mask's size"
        )
    if source.dtype != target.dtype:
        raise ValueError(f"source is {source.dtype} and target is {target.dtype}; convert one")
    return torch.where(mask if source.ndim == 3 else mask.unsqueeze(1), source, target)
