"""Cross-entropy of bilinearly upsampled logits, computed from the low-resolution logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gbw_d2.weighting.pixels import (
    compute_dtype,
    focal_factor,
    focal_slope,
    per_pixel,
    prepare_labels,
    residual,
)
from gbw_d2.weighting.upsampled_pixels import (
    UpsampledBlock,
    bilinear_map,
    check_upsampled,
    kernels_for,
    upsampled_blocks,
)


class _UpsampledCrossEntropy(torch.autograd.Function):
    """Computes loss and gradient in one pass over blocks of rows; the backward pass only scales.

    The gradient is stored in float32 for any dtype of the logits, because before a loss scaler's
    factor is applied it is too small for half precision.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        weights: Tensor,
        pixel_weights: Tensor | None,
        shift: Tensor | None,
        focal_gamma: float,
    ) -> Tensor:
        dtype = compute_dtype(logits)
        scale = weights.to(dtype) / targets.numel()
        kernels = kernels_for(logits)
        compute = loss_and_gradient if kernels is None else kernels.loss_and_gradient
        loss, gradient = compute(
            logits, targets, scale, pixel_weights, shift, focal_gamma, ctx.needs_input_grad[0]
        )
        ctx.dtype = logits.dtype
        ctx.save_for_backward(gradient)
        return loss.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        kept = kept.transpose(1, 2)
        gradient = torch.empty(kept.shape, dtype=ctx.dtype, device=kept.device)
        torch.mul(kept, grad_output.to(kept.dtype), out=gradient)
        return gradient, *[None] * 5


def loss_and_gradient(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    pixel_weights: Tensor | None,
    shift: Tensor | None,
    focal_gamma: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Computes sum_i q_i w_{y_i} (1 - p_y)^gamma CE_i and its gradient, block by block.

    Args:
        logits: (N, K, h, w).
        targets: (N, H, W) int64 from ``prepare_labels``.
        weights: (K,) in the dtype of the computation.
        pixel_weights: (N, H, W) q, or None for 1.
        shift: (K,) to add to the logits, or None for 0.
        focal_gamma: gamma, 0 for none.
        with_gradient: whether to compute the gradient.

    Returns:
        The sum, float64 without axes, and the gradient (N, h, K, w) or None.
    """
    images, classes, height, width = logits.shape
    loss = torch.zeros((), dtype=torch.float64, device=logits.device)
    gradient = None
    if with_gradient:
        gradient = weights.new_zeros(images, height, classes, width)
    bilinear = bilinear_map(logits, targets)
    for block in upsampled_blocks(bilinear, logits, targets, shift):
        factor = per_pixel(weights, block.of(targets))
        if pixel_weights is not None:
            factor = factor * block.of(pixel_weights).to(factor)
        factor = factor.unsqueeze(1)
        loss += _block_loss(block, factor, focal_gamma)
        if gradient is not None:
            rows = block.rows
            part = _block_gradient(block, factor, focal_gamma)
            bilinear.add_transposed(part, rows, gradient[block.image, rows.source])
    return loss, gradient


def _block_loss(block: UpsampledBlock, factor: Tensor, focal_gamma: float) -> Tensor:
    losses = factor * block.softmax.cross_entropy
    if focal_gamma > 0:
        losses = losses * focal_factor(block.softmax, focal_gamma)
    return losses.sum(dtype=torch.float64)


def _block_gradient(block: UpsampledBlock, factor: Tensor, focal_gamma: float) -> Tensor:
    """Returns the gradient of the block's upsampled logits, written over its exponentials."""
    if focal_gamma > 0:
        factor = factor * focal_slope(block.softmax, focal_gamma)
    return residual(block.exponentials, block.softmax, block.index, factor)


def weighted_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    focal_gamma: float = 0.0,
    pixel_weights: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Returns 1 / (N H W) sum_i q_i w_{y_i} CE_i of logits upsampled to the labels' size.

    The arguments are not checked; ``upsampled_cross_entropy`` is the public function with checks.

    Args:
        logits: (N, K, h, w).
        targets: (N, H, W) int64 from ``prepare_labels``.
        weights: (K,) class weights, constants in the backward pass.
        focal_gamma: exponent of the focal factor (1 - p_y)^gamma, 0 for none.
        pixel_weights: (N, H, W) q_i >= 0, or None for 1; no gradient flows to them.
        shift: (K,) to add to the logits, or None for 0.
    """
    loss: Tensor = _UpsampledCrossEntropy.apply(
        logits, targets, weights, pixel_weights, shift, focal_gamma
    )
    return loss


def upsampled_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Computes the class-weighted cross-entropy of logits that are upsampled to the labels' size.

    loss = 1 / (N H W) sum_i q_i w_{y_i} CE_i (docs/equations.md 1), equal to
    ``F.interpolate(logits, size=(H, W), mode="bilinear", align_corners=False)`` followed by a
    cross-entropy, but the upsampled logits are never stored: each block of rows goes from
    low-resolution logits to loss and gradient while it is in the cache. The mean is over all
    pixels, ignored ones included.

    Args:
        logits: (N, K, h, w), any floating dtype and memory format; float32 is used inside.
        labels: (N, H, W) integer class ids 0..K-1 or ``ignore_index``; H and W may also be equal to
            h and w, or smaller.
        class_weights: (K,) w_k >= 0, or None for 1; constants in the backward pass.
        pixel_weights: (N, H, W) q_i >= 0, or None for 1; no gradient flows to them.
        ignore_index: label of pixels without a class.

    Returns:
        A float32 tensor without axes (float64 for float64 logits).

    Raises:
        ValueError: shapes that do not match; on the CPU also labels that are neither a class nor
            the ignore value.
    """
    check_upsampled(logits, labels, pixel_weights)
    classes = logits.shape[1]
    if class_weights is None:
        class_weights = logits.new_ones(classes, dtype=compute_dtype(logits))
    elif class_weights.shape != (classes,):
        raise ValueError(
            f"class weights have shape {tuple(class_weights.shape)}; expected ({classes},), one "
            "per class"
        )
    targets, _ = prepare_labels(labels, classes, ignore_index)
    return weighted_cross_entropy(
        logits, targets, class_weights.detach(), pixel_weights=pixel_weights
    )
