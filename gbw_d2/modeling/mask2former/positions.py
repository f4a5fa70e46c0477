"""Sine position encodings of feature maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_positions(
    height: int, width: int, channels: int, device: torch.device, temperature: float = 10000.0
) -> Tensor:
    """Encodes rows and columns by sines and cosines of many wavelengths (DETR, section A.4).

    As in Mask2Former: places are counted from 1, divided by the side and multiplied by 2 pi; half
    the channels code the row, half the column, sine and cosine taking turns
    (modeling/transformer_decoder/position_encoding.py of the reference).

    Args:
        height: rows.
        width: columns.
        channels: a multiple of 4.
        device: of the result.
        temperature: longest wavelength over the shortest.

    Returns:
        (channels, height, width) float32.
    """
    half = channels // 2
    exponents = 2 * torch.arange(half // 2, device=device, dtype=torch.float32) / half
    frequencies = temperature**-exponents

    def code(length: int) -> Tensor:
        places = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angles = (places * (2 * math.pi / (length + 1e-6)))[:, None] * frequencies
        return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)

    rows = code(height)[:, None].expand(height, width, half)
    columns = code(width)[None].expand(height, width, half)
    return torch.cat([rows, columns], dim=2).permute(2, 0, 1)
