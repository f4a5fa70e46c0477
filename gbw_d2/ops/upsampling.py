"""Bilinear interpolation as a separable linear map, in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# Number of positions that one product computes along the columns. A product over all positions
# would mostly multiply by zeros.
COLUMNS = 128


@dataclass(frozen=True)
class Block:
    """Some neighbouring positions of an axis after interpolation.

    Attributes:
        out: the positions.
        source: the positions before interpolation from which they are interpolated.
        matrix: (len(out), len(source)) interpolation weights; each row sums to 1.
    """

    out: slice
    source: slice
    matrix: Tensor


def positions(size: int, out_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the inputs of linear interpolation along one axis (``align_corners=False``).

    As in ``F.interpolate(mode="bilinear", size=...)``, output i is at input position max((i + 1/2)
    size / out_size - 1/2, 0); the last value holds beyond the last position.

    Args:
        size: positions before.
        out_size: positions after, more or fewer.

    Returns:
        (lower, upper, part): int64 positions before and float64 weight 0..1 of the upper one, each
        (out_size,).
    """
    where = (np.arange(out_size, dtype=np.float64) + 0.5) * (size / out_size) - 0.5
    where = where.clip(min=0)
    lower = where.astype(np.int64).clip(max=size - 1)
    part = where - lower
    # A position with weight 0 is not read, because its value might be infinite.
    return lower, (lower + (part > 0)).clip(max=size - 1), part


@lru_cache(maxsize=64)
def interpolation_blocks(
    size: int, out_size: int, length: int, dtype: torch.dtype, device: torch.device
) -> tuple[Block, ...]:
    """Returns linear interpolation along one axis as blocks of a matrix; see ``positions``.

    Args:
        size: positions before.
        out_size: positions after, more or fewer.
        length: positions after in one block; the last may have fewer.
        dtype: dtype of the matrices.
        device: device of the matrices.
    """
    lower, upper, part = positions(size, out_size)
    blocks = []
    for start in range(0, out_size, length):
        out = slice(start, min(start + length, out_size))
        source = slice(int(lower[out][0]), int(upper[out][-1]) + 1)
        matrix = np.zeros((out.stop - start, source.stop - source.start))
        for index, weight in ((lower, 1 - part), (upper, part)):
            np.add.at(matrix, (np.arange(len(matrix)), index[out] - source.start), weight[out])
        blocks.append(Block(out, source, torch.from_numpy(matrix).to(device, dtype)))
    return tuple(blocks)


class BilinearMap:
    """Bilinear interpolation to another size, and its transpose, in blocks of rows.

    It is linear and separable: a block of output rows is a matrix times the few input rows from
    which it is interpolated, after interpolation along the columns. Autocast has no effect on it.

    Args:
        size: (h, w) before.
        out_size: (H, W) after, of any ratio to it.
        channels: K.
        elements: maximum number of elements of a block of K maps, before and after.
        dtype: dtype of the computation.
        device: device of the computation.
    """

    def __init__(
        self,
        size: tuple[int, int],
        out_size: tuple[int, int],
        channels: int,
        elements: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        (height, width), (out_height, out_width) = size, out_size
        self.channels, self.width, self.out_width = channels, width, out_width
        self.is_identity = size == out_size
        # If the map is reduced, a block's input is larger than its output.
        row = channels * max(width, out_width) * max(1, -(-height // out_height))
        rows = min(max(1, elements // row), out_height)
        columns = max(1, COLUMNS * out_width // max(width, out_width))
        self.rows = interpolation_blocks(height, out_height, rows, dtype, device)
        self.columns = interpolation_blocks(width, out_width, columns, dtype, device)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.rows)

    def block(self, source: Tensor, rows: Block) -> Tensor:
        """Interpolates one block.

        Args:
            source: (rows.source, K, w), contiguous.
            rows: the block.

        Returns:
            (rows.out, K, W); ``source`` itself if the sizes are equal.
        """
        if self.is_identity:
            return source
        with torch.autocast(source.device.type, enabled=False):
            wide = source
            if self.width != self.out_width:
                flat = source.view(-1, self.width)
                wide = flat.new_empty(flat.shape[0], self.out_width)
                for columns in self.columns:
                    torch.mm(flat[:, columns.source], columns.matrix.t(), out=wide[:, columns.out])
            tall = rows.matrix @ wide.view(source.shape[0], -1)
        return tall.view(-1, self.channels, self.out_width)

    def add_transposed(self, gradient: Tensor, rows: Block, total: Tensor) -> None:
        """Adds the transposed map of one block, its gradient with respect to ``source``.

        Args:
            gradient: (rows.out, K, W), contiguous.
            rows: the block.
            total: (rows.source, K, w), changed.
        """
        if self.is_identity:
            total += gradient
            return
        with torch.autocast(gradient.device.type, enabled=False):
            wide = rows.matrix.t() @ gradient.view(gradient.shape[0], -1)
            wide = wide.view(-1, self.out_width)
            if self.width == self.out_width:
                total += wide.view(total.shape)
                return
            flat = total.view(-1, self.width)
            for columns in self.columns:
                flat[:, columns.source].addmm_(wide[:, columns.out], columns.matrix)
