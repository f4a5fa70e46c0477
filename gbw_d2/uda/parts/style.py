"""Style transfer by histograms: an image takes on the colours of the previous target image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.uda.stages import Batch
from gbw_d2.weighting.distributed import all_reduce_sum, world_size

LEVELS = 256


def histograms(images: Sequence[Tensor]) -> Tensor:
    """Returns (N, C, 256) int64, the histogram of each channel of images (C, H, W) uint8."""
    found = []
    for image in images:
        levels = image.flatten(1).long()
        empty = torch.zeros(len(levels), LEVELS, dtype=torch.int64, device=levels.device)
        found.append(empty.scatter_add_(1, levels, torch.ones_like(levels)))
    return torch.stack(found)


def matching_tables(own: Tensor, wanted: Tensor) -> Tensor:
    """Computes lookup tables that give an image the histogram of another image.

    Histogram matching, as scikit-image has it: a level is mapped to the other image's level of the
    same quantile, with linear interpolation between the levels that occur in the other image.

    Args:
        own: (N, C, 256) int64 counts.
        wanted: (N, C, 256) int64 counts; where all are 0 the image stays unchanged.

    Returns:
        (N, C, 256) float32 in 0..255.
    """
    wanted = torch.where(wanted.sum((1, 2), keepdim=True) > 0, wanted, own)
    quantile, reached = (
        counts.cumsum(2).double() / counts.sum(2, keepdim=True) for counts in (own, wanted)
    )
    upper = torch.searchsorted(reached, quantile).clamp(max=LEVELS - 1)
    # The next lower level that occurs in the other image, or -1.
    shown = torch.where(wanted > 0, torch.arange(LEVELS, device=wanted.device), -1)
    before = torch.cat([torch.full_like(shown[..., :1], -1), shown.cummax(2).values[..., :-1]], 2)
    lower = before.gather(2, upper)
    at_lower, at_upper = reached.gather(2, lower.clamp(min=0)), reached.gather(2, upper)
    step = (at_upper - at_lower).clamp(min=torch.finfo(torch.float64).tiny)
    between = lower + (quantile - at_lower) / step * (upper - lower)
    return torch.where(lower >= 0, between, upper.double()).float()


def restyled(batch: Batch, wanted: Tensor) -> Batch:
    """Gives each sample's image the colours of another image.

    Args:
        batch: samples.
        wanted: (N, C, 256) int64 histograms of the other images, on the device of the computation.

    Returns:
        The same samples with images in float32, 0..255.
    """
    images = [sample[keys.IMAGE].to(wanted.device, non_blocking=True) for sample in batch]
    tables = matching_tables(histograms(images), wanted)
    return [
        {
            **sample,
            keys.IMAGE: table.gather(1, image.flatten(1).long()).view(image.shape),
        }
        for sample, image, table in zip(batch, images, tables, strict=True)
    ]


class StyleStream(nn.Module):
    """Stores the histogram of the run's last target image, also in checkpoints.

    Attributes:
        last: (3, 256) int64 counts, all 0 before the first image.
    """

    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(3, LEVELS, dtype=torch.int64))

    def before(self, batch: Batch) -> Tensor:
        """Returns the histograms (N, 3, 256) of the image before each one, and stores the last.

        The images of all processes form one stream; every process must call it.
        """
        device = self.last.device
        own = histograms([s[keys.IMAGE].to(device, non_blocking=True) for s in batch])
        rank = torch.distributed.get_rank() if world_size() > 1 else 0
        parts = [own if part == rank else torch.zeros_like(own) for part in range(world_size())]
        stream = torch.cat([self.last.unsqueeze(0), all_reduce_sum(torch.cat(parts))])
        self.last.copy_(stream[-1])
        return stream[rank * len(own) : (rank + 1) * len(own)]
