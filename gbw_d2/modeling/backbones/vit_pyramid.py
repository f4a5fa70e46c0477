"""Maps of several strides computed from the single stride of a plain vision transformer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gbw_d2.modeling.backbones.batch_norm import groups_for


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(groups_for(channels), channels)


def _scaled(steps: int, channels: int) -> list[nn.Module]:
    """Returns layers that double rows and columns ``steps`` times, or halve them if negative."""
    if steps < 0:
        return [nn.MaxPool2d(2**-steps)]
    layers: list[nn.Module] = []
    for step in range(steps):
        if step:
            layers += [_norm(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels, 2, stride=2))
    return layers


class VitPyramid(nn.Module):
    """The simple feature pyramid (Li et al., ViTDet, ECCV 2022, section 3), with group norm.

    Each level is made of a map of the transformer alone, without a top-down path: a 1 x 1
    convolution, transposed convolutions or pooling to its stride, a 3 x 3 convolution. Here the 1 x
    1 convolution comes first, so that all levels have the same width, and group norm replaces
    ViTDet's norm over channels. Without a norm the values of DINOv2's maps are too large for heads.

    Args:
        in_channels: channels of the transformer's tokens.
        channels: channels of every level.
        steps: powers of two from each level to the patch: 2 for stride 4 where patches have 16.
    """

    def __init__(self, in_channels: int, channels: int, steps: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, bias=False),
                _norm(channels),
                *_scaled(power, channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                _norm(channels),
            )
            for power in steps
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (N, D, h, w), one map or one per level, to (N, C, h 2^steps, w 2^steps) each."""
        sources = list(maps) * len(self.levels) if len(maps) == 1 else list(maps)
        return [level(source) for level, source in zip(self.levels, sources, strict=True)]
