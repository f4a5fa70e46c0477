"""The spatial prior of each class, computed from source labels (CBST-SP)."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# The version, to be raised whenever the same counts would give another prior.
VERSION = 1


def spatial_prior(counts: np.ndarray, kernel_share: float) -> Tensor:
    """Computes q_n(c), the smoothed frequency of class c at position n.

    Zou et al., ECCV 2018, section 3.3: class frequencies of the source at each pixel, smoothed by a
    70 x 70 Gaussian kernel. Standard deviation and normalisation are not published with the code;
    here the kernel ends at three standard deviations, and each class has the same sum over all
    positions, so that the prior depends on where a class occurs and not on how frequent it is. The
    maximum of all values is 1.

    Args:
        counts: (K, h, w) number of labelled source pixels of each class at each position.
        kernel_share: side of the kernel as a share of the rows; 70 / 1052 in CBST.

    Returns:
        (K, h, w) float32 in 0..1; a class that is absent from the source is 0 everywhere.

    Raises:
        ValueError: counts without any pixel, or a kernel that is not in 0..1.
    """
    if not 0 < kernel_share <= 1:
        raise ValueError(f"kernel_share is {kernel_share}; expected more than 0 and at most 1")
    if counts.ndim != 3 or not counts.any():
        raise ValueError(f"counts of shape {counts.shape} hold no pixel; expected (K, h, w)")
    seen = np.maximum(counts.sum(axis=0), 1)
    frequency = counts.astype(np.float64) / seen
    side = 2 * int(kernel_share * counts.shape[1] / 2) + 1
    smooth = np.stack(
        [
            cv2.GaussianBlur(plane, (side, side), side / 6, borderType=cv2.BORDER_REPLICATE)
            for plane in frequency
        ]
    )
    sums = smooth.sum(axis=(1, 2), keepdims=True)
    prior = np.divide(smooth, sums, out=np.zeros_like(smooth), where=sums > 0)
    return torch.from_numpy((prior / prior.max()).astype(np.float32))


def resampled(prior: Tensor, size: tuple[int, int], device: torch.device | str) -> Tensor:
    """Resizes a prior bilinearly to the size of an image.

    Args:
        prior: (K, h, w) of :func:`spatial_prior`.
        size: (rows, columns) of the image.
        device: device of the result.

    Returns:
        (K, rows, columns) float16, to save memory: it is as large as the logits of a whole image.
    """
    result = torch.empty(len(prior), *size, dtype=torch.float16, device=device)
    # Plane by plane: all of them at once would need float32 of the same size beside it.
    for plane, out in zip(prior, result, strict=True):
        grid = plane[None, None].to(device)
        out.copy_(F.interpolate(grid, size=size, mode="bilinear", align_corners=False)[0, 0])
    return result


class PriorAtSize:
    """A prior at the size of the current image, cached because most target images have one size.

    Args:
        prior: of :func:`spatial_prior`, or None for none.
        device: device of the resized prior.
    """

    def __init__(self, prior: Tensor | None, device: torch.device) -> None:
        self.prior = prior
        self.device = device
        self._last: Tensor | None = None

    def of(self, logits: Tensor) -> Tensor | None:
        """Returns the prior at the size of logits (K, H, W), None where there is none."""
        if self.prior is None:
            return None
        size = (logits.shape[1], logits.shape[2])
        if self._last is None or tuple(self._last.shape[1:]) != size:
            self._last = resampled(self.prior, size, self.device)
        return self._last


def version_of(prior: Tensor | None) -> str:
    """Returns a short digest of a prior, "none" where there is none."""
    if prior is None:
        return "none"
    return f"{VERSION}-{hashlib.sha256(prior.numpy().tobytes()).hexdigest()[:16]}"
