"""The pixel decoder: a transformer encoder over the coarse maps, and one step of an FPN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2.modeling.mask2former.deformable import DeformableSelfAttention, cell_centres
from gbw_d2.modeling.mask2former.positions import sine_positions

# Channels that share statistics in the group norms.
GROUPS = 32


@dataclass(frozen=True)
class PixelDecoderSettings:
    """Sizes of the pixel decoder.

    Args:
        channels: of the encoder's cells and of what comes out, a multiple of 32.
        layers: of the encoder.
        heads: of its attention.
        points: places per head and level.
        feedforward: channels inside its feed-forward parts.
        dropout: 0..1.
    """

    channels: int = 256
    layers: int = 6
    heads: int = 8
    points: int = 4
    feedforward: int = 1024
    dropout: float = 0.0


class _EncoderLayer(nn.Module):
    """Deformable attention, then a feed-forward part; each added and normalised afterwards."""

    def __init__(self, settings: PixelDecoderSettings, levels: int) -> None:
        super().__init__()
        channels = settings.channels
        self.attention = DeformableSelfAttention(channels, settings.heads, levels, settings.points)
        self.attention_norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, settings.feedforward)
        self.contract = nn.Linear(settings.feedforward, channels)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(settings.dropout)
        for linear in (self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self,
        cells: Tensor,
        positions: Tensor,
        centres: Tensor,
        sizes: Sequence[tuple[int, int]],
    ) -> Tensor:
        attended = self.dropout(self.attention(cells, positions, centres, sizes))
        cells = self.attention_norm(cells + attended)
        inside = self.dropout(F.relu(self.expand(cells)))
        return self.feedforward_norm(cells + self.dropout(self.contract(inside)))


def _projection(in_channels: int, channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, 1)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, channels))


class PixelDecoder(nn.Module):
    """The pixel decoder of Mask2Former (section 3.2.2; modeling/pixel_decoder/msdeformattn.py).

    It computes in float32 even under autocast, because positions in half precision would be off by
    cells.

    Args:
        in_channels: of the encoder's maps, the finest first; that one takes part in the FPN step
            alone, all others in the transformer encoder.
        settings: sizes.
    """

    def __init__(self, in_channels: Sequence[int], settings: PixelDecoderSettings) -> None:
        super().__init__()
        channels, levels = settings.channels, len(in_channels) - 1
        self.projections = nn.ModuleList(
            _projection(c, channels) for c in reversed(in_channels[1:])
        )
        self.level_codes = nn.Parameter(torch.empty(levels, channels).normal_())
        self.layers = nn.ModuleList(_EncoderLayer(settings, levels) for _ in range(settings.layers))
        lateral = nn.Conv2d(in_channels[0], channels, 1, bias=False)
        self.lateral = nn.Sequential(lateral, nn.GroupNorm(GROUPS, channels))
        smooth = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.smooth = nn.Sequential(smooth, nn.GroupNorm(GROUPS, channels), nn.ReLU())
        self.mask_features = nn.Conv2d(channels, channels, 1)
        for convolution in (lateral, smooth, self.mask_features):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decodes.

        Args:
            maps: (N, C_i, h_i, w_i), the finest first, as in ``in_channels``.

        Returns:
            mask features (N, C, h_0, w_0), and the levels (N, C, h_i, w_i), the coarsest first.
        """
        with torch.autocast(maps[0].device.type, enabled=False):
            return self._decoded([each.float() for each in maps])

    def _decoded(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        coarse_first = list(reversed(maps[1:]))
        projected = [
            projection(each)
            for projection, each in zip(self.projections, coarse_first, strict=True)
        ]
        sizes = [(each.shape[-2], each.shape[-1]) for each in projected]
        device, channels = projected[0].device, projected[0].shape[1]
        positions = torch.cat(
            [
                sine_positions(*size, channels, device).flatten(1).t() + code
                for size, code in zip(sizes, self.level_codes, strict=True)
            ]
        )
        centres = cell_centres(sizes, device)
        cells = torch.cat([each.flatten(2).transpose(1, 2) for each in projected], dim=1)
        for layer in self.layers:
            cells = layer(cells, positions, centres, sizes)
        parts = cells.split([height * width for height, width in sizes], dim=1)
        levels = [
            part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)
        ]
        finest = self.lateral(maps[0])
        below = F.interpolate(levels[-1], finest.shape[-2:], mode="bilinear", align_corners=False)
        return self.mask_features(self.smooth(finest + below)), levels
