"""Masked image consistency: blocks of a target image are hidden from the student (MIC)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class MaskedConsistency:
    """Hides a share of each image's blocks, which the student must predict from their surroundings.

    Hoyer et al., MIC, CVPR 2023; docs/equations.md 10b. As in the released code each block is
    hidden independently, and hidden pixels get the mean colour.

    Args:
        loss_weight: factor of the losses on masked images, > 0.
        block: side of a block, pixels; 64 in MIC for crops of 1024 x 1024, 32 for 512 x 512.
        ratio: share of the blocks that are hidden, 0..1; 0.7 in MIC.
    """

    loss_weight: float = 1.0
    block: int = 64
    ratio: float = 0.7

    def draw(self, rngs: Sequence[np.random.Generator], size: tuple[int, int]) -> Tensor:
        """Draws which blocks of each image are visible.

        Args:
            rngs: one generator per image.
            size: (rows, columns) of the images, pixels.

        Returns:
            (N, 1, rows, columns) float32 on the CPU, 1 visible and 0 hidden; an image has
            round(pixels / block) blocks along each side, at least one.
        """
        cells = [max(1, round(side / self.block)) for side in size]
        seen = [rng.random(cells, dtype=np.float32) > self.ratio for rng in rngs]
        return torch.from_numpy(np.stack(seen)[:, None].astype(np.float32))

    @staticmethod
    def apply(images: Tensor, seen: Tensor) -> Tensor:
        """Returns the images with the hidden blocks at 0, the mean colour.

        Args:
            images: (N, 3, H, W), normalised.
            seen: of ``draw``, on the images' device.
        """
        size = (images.shape[-2], images.shape[-1])
        return images * F.interpolate(seen, size=size, mode="nearest").to(images.dtype)
