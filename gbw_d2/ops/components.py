"""Connected regions of label maps, found on the device without looking at a value."""

from __future__ import annotations

import torch
from torch import Tensor

# Blobs of any kind need eight, noise eleven; what a longer snake needs, it stays in parts for.
_ROUNDS = 12


@torch.no_grad()
def connected_regions(labels: Tensor, rounds: int = _ROUNDS) -> Tensor:
    """Numbers the regions of one label whose pixels touch at their sides.

    Trees of pixels that hook onto the least neighbouring root and halve their height in each round
    (FastSV, Zhang, Azad and Hu, PP 2020), a fixed number of times, so that the host need not ask
    whether they are done. They begin as the runs of the rows.

    Args:
        labels: (N, H, W) int64.
        rounds: about log2 of the longest way through a region.

    Returns:
        (N, H, W) int64 in 0..HW-1, in each image the place of the region's first pixel.
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
