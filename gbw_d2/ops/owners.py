"""Sums over segments, given a map of each pixel's segment, without making masks."""

from __future__ import annotations

import torch
from torch import Tensor


def owner_sums(owners: Tensor, count: int, amounts: Tensor | None = None) -> Tensor:
    """Returns (N, count) float32, the sum of each segment's pixels.

    Args:
        owners: (N, H, W) int64, segment number of each pixel, 0..count - 1.
        count: number of segment numbers.
        amounts: (N, H, W) of any dtype, or None for 1, which gives areas.
    """
    flat = owners.flatten(1)
    each = torch.ones((), device=owners.device) if amounts is None else amounts.float().flatten(1)
    sums = torch.zeros(len(owners), count, device=owners.device)
    return sums.scatter_add_(1, flat, each.expand(flat.shape))


def owner_shares(owners: Tensor, count: int, where: Tensor) -> Tensor:
    """Returns (N, count) float32, the share of a segment's pixels where ``where`` is True.

    The share is 0 for numbers without a pixel.
    """
    return owner_sums(owners, count, where) / owner_sums(owners, count).clamp(min=1)


def at_owners(values: Tensor, owners: Tensor) -> Tensor:
    """Returns (N, H, W), the value (N, count) of each pixel's segment."""
    return values.gather(1, owners.flatten(1)).view_as(owners)
