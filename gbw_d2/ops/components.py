"""Connected components of label maps, computed on the device without host synchronisation."""

from __future__ import annotations

import torch
from torch import Tensor

# Compact regions need up to eight rounds, noise eleven; longer snake-like regions stay split into
# parts.
_ROUNDS = 12


@torch.no_grad()
def connected_regions(labels: Tensor, rounds: int = _ROUNDS) -> Tensor:
    """Numbers the 4-connected regions of equal labels.

    Trees of pixels hook onto the smallest neighbouring root and halve their height in each round
    (FastSV, Zhang, Azad and Hu, PP 2020). The number of rounds is fixed, so that the host need not
    check for convergence. The initial trees are the runs of the rows.

    Args:
        labels: (N, H, W) int64.
        rounds: number of rounds, about log2 of the longest path through a region.

    Returns:
        (N, H, W) int64 in 0..HW-1, the flat index of the region's first pixel in its image.
    """
    images, height, width = labels.shape
    places = torch.arange(labels.numel(), device=labels.device).view_as(labels)
    begins = torch.ones_like(labels, dtype=torch.bool)
    begins[:, :, 1:] = labels[:, :, 1:] != labels[:, :, :-1]
    roots = torch.where(begins, places, 0).flatten(1).cummax(1).values.flatten()
    alike = labels[:, 1:] == labels[:, :-1]
    for _ in range(rounds):
        above = roots[roots].view_as(labels)
        least = above.clone()
        upper, lower = above[:, :-1], above[:, 1:]
        least[:, 1:] = torch.where(alike, torch.minimum(upper, lower), lower)
        first = torch.where(alike, torch.minimum(upper, lower), upper)
        least[:, :-1] = torch.minimum(least[:, :-1], first)
        hooked = roots.scatter_reduce(0, roots, least.flatten(), "amin")
        roots = torch.minimum(hooked, above.flatten())
    first_of_image = torch.arange(images, device=labels.device).view(-1, 1, 1) * (height * width)
    return roots[roots].view_as(labels) - first_of_image
