"""Losses of the instance heads of Panoptic-DeepLab: centre heat map and offsets."""

from __future__ import annotations

import torch
from torch import Tensor

from gbw_d2.weighting.distributed import all_reduce_sum, world_size


def center_loss(
    prediction: Tensor, target: Tensor, weights: Tensor, pixel_weights: Tensor | None = None
) -> Tensor:
    """Computes the centre heat map's squared error (Cheng et al. 2020), as Detectron2 does.

    sum of weights (prediction - target)^2 / sum of weights; 0 where that sum is 0. In several
    processes the divisor is the mean over processes of the sum, so that the mean of the processes'
    losses equals the loss of one process with all the images; every process must make the call.

    Args:
        prediction: (N, 1, H, W), at label resolution.
        target: (N, H, W) heat map, 0..1.
        weights: (N, H, W) >= 0, 1 where the loss applies and 0 elsewhere.
        pixel_weights: (N, H, W) >= 0 factor that is not part of the divisor, as in the
            cross-entropy; None for 1.

    Returns:
        A tensor without axes.

    Raises:
        ValueError: shapes that do not match.
    """
    _check(prediction, target.unsqueeze(1), 1, weights, pixel_weights)
    error = (prediction.squeeze(1) - target).square()
    return _weighted_mean(error, weights, pixel_weights)


def offset_loss(
    prediction: Tensor, target: Tensor, weights: Tensor, pixel_weights: Tensor | None = None
) -> Tensor:
    """Computes the offsets' absolute error (Cheng et al. 2020), as Detectron2 does.

    sum of weights (|error in y| + |error in x|) / sum of weights, each pixel's weight counted once;
    0 where that sum is 0. Several processes as in ``center_loss``.

    Args:
        prediction: (N, 2, H, W) offsets (dy, dx) in pixels, at label resolution.
        target: (N, 2, H, W) likewise.
        weights: (N, H, W) >= 0, 1 on thing pixels and 0 elsewhere.
        pixel_weights: (N, H, W) >= 0 factor that is not part of the divisor; None for 1.

    Returns:
        A tensor without axes.

    Raises:
        ValueError: shapes that do not match.
    """
    _check(prediction, target, 2, weights, pixel_weights)
    return _weighted_mean((prediction - target).abs().sum(1), weights, pixel_weights)


def _weighted_mean(error: Tensor, weights: Tensor, pixel_weights: Tensor | None) -> Tensor:
    factor = weights if pixel_weights is None else weights * pixel_weights
    divisor = all_reduce_sum(weights.detach().sum(dtype=torch.float32)) / world_size()
    # where, not an if on the sum, which would wait for the device.
    return (error * factor).sum() / torch.where(divisor > 0, divisor, torch.ones_like(divisor))


def _check(
    prediction: Tensor,
    target: Tensor,
    channels: int,
    weights: Tensor,
    pixel_weights: Tensor | None,
) -> None:
    images, _, height, width = prediction.shape
    expected = {
        "prediction": (prediction, (images, channels, height, width)),
        "target": (target, (images, channels, height, width)),
        "weights": (weights, (images, height, width)),
        "pixel_weights": (pixel_weights, (images, height, width)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")
