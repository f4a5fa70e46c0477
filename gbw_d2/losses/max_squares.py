"""Maximum squares loss for unlabelled images."""

from __future__ import annotations

import torch
from torch import Tensor

# Whether the factor 1/2 is applied; None: as in the released code, without image weighting only.
HALF_CHOICES: dict[str, bool | None] = {"auto": None, "always": True, "never": False}


def max_squares_loss(
    logits: Tensor,
    image_weighting_ratio: float | None = None,
    half: str = "auto",
    mean_over_classes: bool = True,
) -> Tensor:
    """Computes the maximum squares loss (Chen et al. 2019), optionally with image-wise weights.

    Without a ratio: -1/2 mean over batch, classes and pixels of p^2. With ratio a, as in the
    released code: -1 / (B K) sum_n w_n sum_c p_nc^2, w_n = 1 / max(N_c^a N^(1-a), 1), c the class
    predicted at pixel n, N_c the image's pixels predicted as c, N the number of its pixels. The
    released code has no 1/2 here, so a = 0 gives twice the loss without a ratio.

    Args:
        logits: (B, K, H, W), any floating dtype.
        image_weighting_ratio: a in 0..1, or None; weights are per image and carry no gradient.
        half: when to apply the factor 1/2: "auto" (as released: without a ratio only), "always" or
            "never".
        mean_over_classes: whether to apply the factor 1 / K, as the released code does.

    Returns:
        A tensor without axes, <= 0.

    Raises:
        ValueError: logits without four axes, a ratio outside 0..1, or an unknown ``half``.
    """
    if logits.ndim != 4:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected (B, K, H, W)")
    check_max_squares_settings(image_weighting_ratio, half)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    squares = wide.softmax(1).square()
    batch, classes, height, width = logits.shape
    if image_weighting_ratio is None:
        total = squares.sum() / (height * width)
    else:
        predicted = logits.detach().argmax(1).flatten(1)
        weights = _image_weights(predicted, classes, image_weighting_ratio)
        total = (weights.to(wide.dtype) * squares.sum(1).flatten(1)).sum()
    choice = HALF_CHOICES[half]
    with_half = image_weighting_ratio is None if choice is None else choice
    factor = (0.5 if with_half else 1.0) / (batch * (classes if mean_over_classes else 1))
    return -factor * total


def check_max_squares_settings(image_weighting_ratio: float | None, half: str) -> None:
    """Raises ValueError for a setting that :func:`max_squares_loss` does not accept."""
    if image_weighting_ratio is not None and not 0 <= image_weighting_ratio <= 1:
        raise ValueError(
            f"image_weighting_ratio is {image_weighting_ratio}; expected 0..1 (the paper uses 0.2)"
        )
    if half not in HALF_CHOICES:
        raise ValueError(f"half is {half!r}; expected one of {', '.join(HALF_CHOICES)}")


def _image_weights(predicted: Tensor, classes: int, ratio: float) -> Tensor:
    """Returns the weights w_n (B, N), float64, of predicted classes (B, N)."""
    batch, pixels = predicted.shape
    ones = torch.ones_like(predicted)
    # Integer sums are exact, and so reproducible on a GPU.
    counts = torch.zeros(batch, classes, dtype=torch.int64, device=predicted.device)
    counts.scatter_add_(1, predicted, ones)
    weights = 1 / (counts.double().pow(ratio) * pixels ** (1 - ratio)).clamp(min=1)
    return weights.gather(1, predicted)
