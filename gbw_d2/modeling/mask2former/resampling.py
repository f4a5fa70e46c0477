"""Upsampling of low-resolution maps to the size of an image, in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gbw_d2.modeling.protocol import Size

# Elements of one piece: 16 MB in float32.
_PIECE = 1 << 22


@dataclass(frozen=True)
class Frame:
    """The position of an image's pixels in maps of the padded input.

    Args:
        cells: (rows, columns) of the maps.
        padded: (rows, columns) of the image that they are of, its padding included.
        shown: (rows, columns) of the image without padding.
        size: (rows, columns) of the picture, which is that image at any size.
    """

    cells: Size
    padded: Size
    shown: Size
    size: Size

    def pieces(self, maps: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yields rows of the picture and the maps there, bilinearly: (C, rows, columns).

        Args:
            maps: (C, h, w), of ``cells``.
        """
        up, down, share = self._taps(0, maps.device)
        left, right, across = self._taps(1, maps.device)
        step = max(1, _PIECE // (len(maps) * self.size[1]))
        for start in range(0, self.size[0], step):
            rows = slice(start, min(start + step, self.size[0]))
            part = torch.lerp(maps[:, up[rows]], maps[:, down[rows]], share[rows, None])
            yield rows, torch.lerp(part[:, :, left], part[:, :, right], across)

    def whole(self, maps: Tensor) -> Tensor:
        """Returns the maps (C, h, w) at the picture's size, (C, rows, columns)."""
        result = maps.new_empty(len(maps), *self.size)
        for rows, part in self.pieces(maps):
            result[:, rows] = part
        return result

    def _taps(self, axis: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the cell before and after each pixel, and the share of the second."""
        cells, padded, shown, size = (
            each[axis] for each in (self.cells, self.padded, self.shown, self.size)
        )
        places = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (shown / size)
        # Pixels of the picture's border see no padding where it is larger than the image.
        places = places.clamp(0.5, max(shown - 0.5, 0.5))
        cell = (places * (cells / padded) - 0.5).clamp(0, cells - 1)
        first = cell.long()
        return first, (first + 1).clamp(max=cells - 1), cell - first
