"""Per-class statistics of bilinearly upsampled logits, without ever holding them."""

from __future__ import annotations

import torch
from torch import Tensor

from gbw_d2.weighting.distributed import all_reduce_sum
from gbw_d2.weighting.pixels import (
    compute_dtype,
    count_per_class,
    focal_factor,
    per_pixel,
    residual,
    sum_per_class,
)
from gbw_d2.weighting.statistics import ClassStatistics
from gbw_d2.weighting.upsampled_pixels import bilinear_map, kernels_for, upsampled_blocks


@torch.no_grad()
def upsampled_class_statistics(
    logits: Tensor,
    targets: Tensor,
    invalid_labels: Tensor,
    pixel_weights: Tensor | None = None,
    norms: bool = True,
    all_processes: bool = True,
    pixel_weights_in_gradient: bool = False,
    focal_gamma: float = 0.0,
    shift: Tensor | None = None,
) -> ClassStatistics:
    """Gathers ``class_statistics`` of logits upsampled to the labels' size (docs/equations.md 3).

    The logits whose channels the norms belong to are the upsampled ones. Without norms no pass over
    the pixels is made: the labels alone give the counts, and the loss is summed where it is
    computed.

    Args:
        logits: (N, K, h, w) low-resolution logits, any floating dtype.
        targets: (N, H, W) int64 from ``prepare_labels``.
        invalid_labels: the flag from ``prepare_labels``; handed on.
        pixel_weights: (N, H, W) q_i >= 0, or None for 1.
        norms: whether to compute the norms, and with them the loss sums.
        all_processes: whether counts and norms are summed over all processes.
        pixel_weights_in_gradient: whether q shapes counts and norms.
        focal_gamma: exponent of the focal factor inside the loss sums, 0 for none.
        shift: (K,) to add to the logits, or None for 0.

    Returns:
        The statistics without ``pixels``; ``loss_sums`` is None without norms. ``nonfinite`` is set
        by any NaN or inf among the logits, -inf included, which no interpolation survives.
    """
    classes = logits.shape[1]
    shaping = pixel_weights if pixel_weights_in_gradient else None
    reduce = all_reduce_sum if all_processes else torch.Tensor.clone
    if shaping is None:
        counts = reduce(count_per_class(targets, classes))
    else:
        counts = reduce(sum_per_class(shaping, targets, classes))
    # A sum in float64 is finite where and only where all that is summed is.
    total = logits.sum(dtype=torch.float64) + counts.sum()
    if pixel_weights is not None:
        total = total + pixel_weights.sum(dtype=torch.float64)
    if shift is not None:
        total = total + shift.sum(dtype=torch.float64)
    statistics = ClassStatistics(counts, None, ~torch.isfinite(total), invalid_labels)
    if norms:
        kernels = kernels_for(logits)
        compute = norms_and_loss_sums if kernels is None else kernels.norms_and_loss_sums
        importance = (1 / (counts + 1)).to(compute_dtype(logits))
        squared, sums = compute(
            logits, targets, importance, pixel_weights, shaping, shift, focal_gamma
        )
        statistics.set_norms(reduce(squared))
        statistics.loss_sums = sums
    return statistics


def norms_and_loss_sums(
    logits: Tensor,
    targets: Tensor,
    importance: Tensor,
    pixel_weights: Tensor | None,
    shaping: Tensor | None,
    shift: Tensor | None,
    focal_gamma: float,
) -> tuple[Tensor, Tensor]:
    """Computes sum_i (a_{y_i} v_i (p_k(i) - [y_i = k]))^2 and S_k of this process, in blocks.

    Args:
        logits: (N, K, h, w).
        targets: (N, H, W) int64 from ``prepare_labels``.
        importance: (K,) a, in the dtype of the computation.
        pixel_weights: (N, H, W) q inside S_k, or None for 1.
        shaping: (N, H, W) v, or None for 1.
        shift: (K,) to add to the logits, or None for 0.
        focal_gamma: exponent of the focal factor inside S_k, 0 for none.

    Returns:
        Squared norms and loss sums, each (K,) float64.
    """
    classes = logits.shape[1]
    squared = torch.zeros(classes, dtype=torch.float64, device=logits.device)
    sums = torch.zeros_like(squared)
    for block in upsampled_blocks(bilinear_map(logits, targets), logits, targets, shift):
        labels = block.of(targets)
        losses = block.softmax.cross_entropy
        if focal_gamma > 0:
            losses = losses * focal_factor(block.softmax, focal_gamma)
        losses = losses.squeeze(1)
        if pixel_weights is not None:
            losses = losses * block.of(pixel_weights)
        sums += sum_per_class(losses, labels, classes)
        factor = per_pixel(importance, labels)
        if shaping is not None:
            factor = factor * block.of(shaping).to(factor)
        gradient = residual(block.exponentials, block.softmax, block.index, factor.unsqueeze(1))
        squared += gradient.square_().sum((0, 2))
    return squared, sums
