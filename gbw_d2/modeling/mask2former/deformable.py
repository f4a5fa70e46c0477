"""Multi-scale deformable attention by grid_sample (Zhu et al., Deformable DETR, ICLR 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2.modeling.protocol import Size


def deformable_attention(
    values: Tensor, sizes: Sequence[Size], places: Tensor, weights: Tensor
) -> Tensor:
    """Sums values at given positions (Deformable DETR, equation 3, for one set of heads).

    Args:
        values: (B, D, T), the concatenated cells of all levels; B = images x heads.
        sizes: (rows, columns) of each of the L levels; their cells sum to T.
        places: (L, B, Q, P, 2) as (x, y), 0 = left and upper edge of the level, 1 = the other one.
            Outside the values are 0.
        weights: (L, B, Q, P).

    Returns:
        (B, D, Q).
    """
    total, start = None, 0
    for level, (height, width) in enumerate(sizes):
        cells = values[:, :, start : start + height * width].unflatten(2, (height, width))
        start += height * width
        sampled = F.grid_sample(
            cells, 2 * places[level] - 1, "bilinear", "zeros", align_corners=False
        )
        # Products of (D, P) and (P, 1) would copy all samples.
        part = (sampled * weights[level].unsqueeze(1)).sum(-1)
        total = part if total is None else total + part
    assert total is not None
    return total


def cell_centres(sizes: Sequence[Size], device: torch.device) -> Tensor:
    """Returns (T, 2), the centre of each cell of all levels as (x, y) in 0..1."""
    grids = []
    for height, width in sizes:
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        grids.append(torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=2).flatten(0, 1))
    return torch.cat(grids)


class DeformableSelfAttention(nn.Module):
    """Self-attention of the cells of several levels to a few learned positions on all levels.

    Weights are initialised as in Deformable DETR: the heads point in different directions, with
    points 1, 2, ... cells away and equal attention weights (ops/modules/ms_deform_attn.py).

    Args:
        channels: of the cells.
        heads: they share the channels evenly.
        levels: of the feature maps.
        points: places per head and level.
    """

    def __init__(self, channels: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        directions /= directions.abs().amax(dim=1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        spread = directions.view(self.heads, 1, 1, 2) * steps
        nn.init.zeros_(self.offsets.weight)
        self.offsets.bias.copy_(spread.expand(-1, self.levels, -1, -1).flatten())
        for layer in (self.weights.weight, self.weights.bias):
            nn.init.zeros_(layer)
        for linear in (self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, cells: Tensor, positions: Tensor, centres: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """Attends.

        Args:
            cells: (N, T, C), the concatenated cells of all levels.
            positions: (T, C), added to the cells as queries.
            centres: (T, 2) of :func:`cell_centres`.
            sizes: (rows, columns) of each level.

        Returns:
            (N, T, C).
        """
        images, count, channels = cells.shape
        heads, levels, points = self.heads, self.levels, self.points
        asking = cells + positions
        # (N, T, heads, levels, points, 2) -> (levels, N x heads, T, points, 2)
        offsets = self.offsets(asking).view(images, count, heads, levels, points, 2)
        scale = offsets.new_tensor([[1 / width, 1 / height] for height, width in sizes])
        places = centres.view(count, 1, 1, 1, 2) + offsets * scale.view(levels, 1, 2)
        places = places.permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
        weights = self.weights(asking).view(images, count, heads, levels * points).softmax(-1)
        weights = weights.unflatten(3, (levels, points)).permute(3, 0, 2, 1, 4).flatten(1, 2)
        values = self.value(cells).transpose(1, 2).reshape(images * heads, -1, count)
        attended = deformable_attention(values, sizes, places, weights)
        return self.output(attended.view(images, channels, count).transpose(1, 2))
