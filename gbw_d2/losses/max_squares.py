"""Maximum squares loss for unlabelled images."""

from __future__ import annotations

import torch
from torch import Tensor


def max_squares_loss(logits: Tensor, image_weighting_ratio: float | None = None) -> Tensor:
    """Computes the maximum squares loss (Chen et al. 2019), with image-wise weights on request.

    Without a ratio: -1/2 mean over batch, classes and pixels of p^2. With ratio a, as released:
    -1 / (B K) sum_n w_n sum_c p_nc^2, w_n = 1 / max(N_c^a N^(1-a), 1), c the class predicted at
    pixel n, N_c the image's pixels predicted as c, N all its pixels. The release has no 1/2 here,
    so a = 0 gives twice the loss without a ratio.

    Args:
        logits: (B, K, H, W), any floating dtype.
        image_weighting_ratio: a in 0..1, or None; weights are per image and carry no gradient.

    Returns:
        A tensor without axes, <= 0.

    Raises:
        ValueError: logits without four axes, or a ratio outside 0..1.
    """
    if logits.ndim != 4:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected (B, K, H, W)")
    wide = logits if logits.dtype == torch.float64 else logits.float()
    squares = wide.softmax(1).square()
    if image_weighting_ratio is None:
        return -squares.mean() / 2
    ratio = image_weighting_ratio
    if not 0 <= ratio <= 1:
        raise ValueError(f"image_weighting_ratio is {ratio}; expected 0..1 (the paper uses 0.2)")
    batch, classes, height, width = logits.shape
    predicted = logits.detach().argmax(1).flatten(1)
    counts = wide.new_zeros(batch, classes).scatter_add_(
        1, predicted, wide.new_ones(()).expand_as(predicted)
    )
    weights = 1 / (counts.pow(ratio) * (height * width) ** (1 - ratio)).clamp(min=1)
    pixel_weights = weights.gather(1, predicted)
    return -(pixel_weights * squares.sum(1).flatten(1)).sum() / (batch * classes)
