"""Per-class statistics of predictions and labels: counts, squared gradient norms, loss sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gbw_d2.weighting.distributed import all_reduce_sum
from gbw_d2.weighting.pixels import (
    PixelSoftmax,
    check_logits,
    compute_dtype,
    count_per_class,
    focal_factor,
    label_index,
    may_look,
    per_pixel,
    prepare_labels,
    residual,
    row_chunks,
    shifted_rows,
    split_softmax,
    sum_per_class,
)


@dataclass
class ClassStatistics:
    """What a weighting scheme may know of a batch; all tensors detached, on the logits' device.

    The instance heads count what their loss is a sum of in place of pixels (docs/equations.md 7).

    Attributes:
        counts: (K,) float64, pixels of each class, over all processes where the scheme adapts.
        loss_sums: (K,) float64, S_k = sum over pixels of class k of q_i CE_i, this process only;
            None for losses that are summed elsewhere.
        nonfinite: bool, no axes: whether predictions or pixel weights held NaN or inf.
        invalid_labels: bool, no axes: whether a label was neither a class nor the ignore value.
        measure: (K,) what the scheme measures of each class, over all processes: the norms g_k of
            the logit channels' gradients, float64, or a measure at the classifier, float32; None
            where nobody asked.
        observed: (K,) bool, classes whose measure tells of their own pixels; None where nobody
            asked.
        pixels: the softmax's parts at every pixel, for the backward pass; None where the loss is
            not a cross-entropy.
    """

    counts: Tensor
    loss_sums: Tensor | None
    nonfinite: Tensor
    invalid_labels: Tensor
    measure: Tensor | None = None
    observed: Tensor | None = None
    pixels: PixelSoftmax | None = None

    def set_norms(self, squared: Tensor) -> None:
        """Takes g_k^2 (K,), over all processes, as the measure.

        An absent class has a norm too, through false positives, but it tells another story than
        that of its pixels: a running mean over both would fade with every batch without it.
        """
        self.measure, self.observed = squared.sqrt(), self.counts > 0


@torch.no_grad()
def class_statistics(
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
    """Gathers the statistics in one pass over the logits (docs/equations.md 1 and 3).

    g_k^2 = sum_i a_i^2 (p_k(i) - [y_i = k])^2 with a_i = 1 / (n_{y_i} + 1), 0 at ignored pixels.
    With ``pixel_weights_in_gradient`` the class loss is sum_i q_i CE_i / (n_c + 1) with
    n_c = sum_i q_i: a_i gains the factor q_i and ``counts`` are these weighted counts.

    Args:
        logits: (N, K, H, W), any floating dtype.
        targets: (N, H, W) int64 from ``prepare_labels``.
        invalid_labels: the flag from ``prepare_labels``; handed on.
        pixel_weights: (N, H, W) q_i >= 0, or None for 1.
        norms: whether to compute the norms.
        all_processes: whether counts and norms are summed over all processes.
        pixel_weights_in_gradient: whether q shapes counts and norms.
        focal_gamma: exponent of the focal factor inside the loss sums, 0 for none.
        shift: (K,) to add to the logits, or None for 0.
    """
    classes = logits.shape[1]
    dtype = compute_dtype(logits)
    shaping = pixel_weights if pixel_weights_in_gradient else None
    reduce = all_reduce_sum if all_processes else torch.Tensor.clone
    if shaping is None:
        counts = reduce(count_per_class(targets, classes))
    else:
        counts = reduce(sum_per_class(shaping, targets, classes))
    factor = per_pixel((1 / (counts + 1)).to(dtype), targets)
    if shaping is not None:
        factor = factor * shaping.to(dtype)
    factor = factor.unsqueeze(1)

    index = label_index(targets, classes)
    pixels = PixelSoftmax.empty(logits)
    squared = torch.zeros(classes, dtype=torch.float64, device=logits.device)
    for rows in row_chunks(logits):
        exponentials, parts = split_softmax(shifted_rows(logits, rows, shift), index[:, :, rows])
        for whole, part in zip(pixels.rows(rows), parts, strict=True):
            whole.copy_(part)
        if norms:
            gradient = residual(exponentials, parts, index[:, :, rows], factor[:, :, rows])
            squared += gradient.square_().sum((0, 2, 3))

    losses = pixels.cross_entropy
    if focal_gamma > 0:
        losses = losses * focal_factor(pixels, focal_gamma)
    losses = losses.squeeze(1)
    if pixel_weights is not None:
        losses = losses * pixel_weights
    sums = sum_per_class(losses, targets, classes)
    # The softmax's denominators are finite for every input but NaN, +inf and all -inf.
    nonfinite = ~torch.isfinite(pixels.total.sum(dtype=torch.float64) + sums.sum() + counts.sum())
    statistics = ClassStatistics(counts, sums, nonfinite, invalid_labels, pixels=pixels)
    if norms:
        statistics.set_norms(reduce(squared))
    return statistics


@torch.no_grad()
def element_statistics(
    losses: Tensor,
    squared_slopes: Tensor,
    targets: Tensor,
    invalid_labels: Tensor,
    num_classes: int,
    importance: Tensor | None = None,
    norms: bool = True,
) -> ClassStatistics:
    """Gathers the statistics of a loss without logit channels (docs/equations.md 7).

    With l_i the loss of element i, an element being a pixel or a RoI with a prediction of its own,
    L_c = sum over class c of v_i l_i / (n_c + 1) and n_c = sum of v_i:
    g_c^2 = sum over class c of v_i^2 |dl_i / dprediction|^2 / (n_c + 1)^2.

    Args:
        losses: any shape, what each element adds to the loss; looked at for NaN and inf only.
        squared_slopes: of the same shape, |dl_i / dprediction|^2.
        targets: of the same shape, int64, the class 0..num_classes-1, or num_classes for none.
        invalid_labels: the flag from ``prepare_labels``; handed on.
        num_classes: number of classes.
        importance: of the same shape, v_i >= 0, or None for 1.
        norms: whether the norms are wanted; counts and norms are then over all processes.
    """
    weights = torch.ones_like(losses) if importance is None else importance
    counts = sum_per_class(weights, targets, num_classes)
    if norms:
        counts = all_reduce_sum(counts)
    nonfinite = ~torch.isfinite(losses.sum(dtype=torch.float64) + counts.sum())
    statistics = ClassStatistics(counts, None, nonfinite, invalid_labels)
    if norms:
        squared = sum_per_class(weights.square() * squared_slopes, targets, num_classes)
        statistics.set_norms(all_reduce_sum(squared) / (counts + 1).square())
    return statistics


def logit_gradient_norms(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Computes g_k, the norm of the class-mean losses' gradient in logit channel k, as released.

    g_k = |d/dz_k sum_c L_c|, L_c = sum_{i: y_i = c} CE_i / (n_c + 1), over all pixels of the batch
    and of all processes. An absent class has g_k > 0 where the network predicts it.

    Args:
        logits: (N, K, H, W), any floating dtype.
        labels: (N, H, W) integer class ids 0..K-1 or ``ignore_index``.
        ignore_index: label of pixels without a class.

    Returns:
        (K,) float32, detached, on the logits' device; NaN for non-finite logits on a GPU.

    Raises:
        ValueError: shapes that do not match; on the CPU also unknown labels and NaN or inf.
    """
    check_logits(logits, labels)
    targets, invalid = prepare_labels(labels, logits.shape[1], ignore_index)
    statistics = class_statistics(logits.detach(), targets, invalid)
    if may_look(logits) and bool(statistics.nonfinite):
        raise ValueError("the logits hold NaN or inf, so their gradient has no norm")
    assert statistics.measure is not None
    return statistics.measure.float()
