"""Per-class statistics of predictions and labels: counts, squared gradient norms, loss sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gbw_d2.weighting.distributed import all_reduce_sum
from gbw_d2.weighting.pixels import (
    compute_dtype,
    count_per_class,
    focal_factor,
    may_look,
    per_pixel,
    prepare_labels,
    residual,
    sum_per_class,
)
from gbw_d2.weighting.upsampled_pixels import (
    bilinear_map,
    check_upsampled,
    kernels_for,
    upsampled_blocks,
)


@dataclass
class ClassStatistics:
    """A batch's statistics for a weighting scheme, as detached tensors on the logits' device.

    For instance heads the counts are those of the elements that their loss sums over, in place of
    pixels (docs/equations.md 7).

    Attributes:
        counts: (K,) float64, pixels of each class.
        loss_sums: (K,) float64, S_k = sum over pixels of class k of q_i CE_i, of this process only;
            None where they were not needed.
        nonfinite: bool, no axes: whether predictions or pixel weights held NaN or inf.
        invalid_labels: bool, no axes: whether a label was neither a class nor the ignore value.
        measure: (K,) the scheme's measure of each class, over all processes: the norms g_k of the
            logit channels' gradients, float64, or a measure at the classifier, float32; None where
            not requested.
        observed: (K,) bool, classes whose measure stems from their own pixels; None where not
            requested.
        summed: whether the counts are over all processes, as where the scheme adapts, and not of
            this one alone.
    """

    counts: Tensor
    loss_sums: Tensor | None
    nonfinite: Tensor
    invalid_labels: Tensor
    measure: Tensor | None = None
    observed: Tensor | None = None
    summed: bool = False

    def set_norms(self, squared: Tensor) -> None:
        """Sets the measure from the squared norms g_k^2 (K,) over all processes.

        An absent class has a norm too, through false positives, but it is much smaller than with
        pixels of the class: a running mean over both would decay with every batch that lacks the
        class.
        """
        self.measure, self.observed = squared.sqrt(), self.counts > 0

    def set_measure(self, measure: Tensor, observed: Tensor, nonfinite: Tensor) -> None:
        """Sets a measure at the classifier; arguments are what ``measure_prepared`` returns."""
        self.measure, self.observed = measure, observed
        self.nonfinite = self.nonfinite | nonfinite


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
    """Gathers the statistics of logits upsampled to the labels' size (docs/equations.md 1 and 3).

    g_k^2 = sum_i a_i^2 (p_k(i) - [y_i = k])^2 with a_i = 1 / (n_{y_i} + 1), 0 at ignored pixels; p
    is the softmax of the upsampled logits, to whose channels the norms belong.
    With ``pixel_weights_in_gradient`` the class loss is sum_i q_i CE_i / (n_c + 1) with
    n_c = sum_i q_i: a_i gains the factor q_i and ``counts`` are these weighted counts.

    Without norms there is no pass over the pixels: the counts need the labels alone, and the loss
    is summed where it is computed.

    Args:
        logits: (N, K, h, w), any floating dtype; of the labels' size, smaller or larger.
        targets: (N, H, W) int64 from ``prepare_labels``.
        invalid_labels: the flag from ``prepare_labels``; returned unchanged.
        pixel_weights: (N, H, W) q_i >= 0, or None for 1.
        norms: whether to compute the norms, and with them the loss sums.
        all_processes: whether counts and norms are summed over all processes.
        pixel_weights_in_gradient: whether q shapes counts and norms.
        focal_gamma: exponent of the focal factor inside the loss sums, 0 for none.
        shift: (K,) to add to the logits, or None for 0.

    Returns:
        The statistics; ``loss_sums`` is None without norms. ``nonfinite`` is set by NaN and inf
        among the logits, and by -inf where they have to be upsampled.
    """
    classes = logits.shape[1]
    shaping = pixel_weights if pixel_weights_in_gradient else None
    reduce = all_reduce_sum if all_processes else torch.Tensor.clone
    if shaping is None:
        counts = reduce(count_per_class(targets, classes))
    else:
        counts = reduce(sum_per_class(shaping, targets, classes))
    # -inf is a probability of 0, but no interpolation survives it.
    seen = logits.amax(1) if logits.shape[2:] == targets.shape[1:] else logits
    # A sum in float64 is finite exactly where all summands are.
    total = seen.sum(dtype=torch.float64) + counts.sum()
    if pixel_weights is not None:
        total = total + pixel_weights.sum(dtype=torch.float64)
    if shift is not None:
        total = total + shift.sum(dtype=torch.float64)
    nonfinite = ~torch.isfinite(total)
    statistics = ClassStatistics(counts, None, nonfinite, invalid_labels, summed=all_processes)
    if norms:
        kernels = kernels_for(logits)
        compute = norms_and_loss_sums if kernels is None else kernels.norms_and_loss_sums
        importance = (1 / (counts + 1)).to(compute_dtype(logits))
        squared, sums = compute(
            logits, targets, importance, pixel_weights, shaping, shift, focal_gamma
        )
        statistics.loss_sums = sums
        statistics.set_norms(reduce(squared))
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
        losses: the loss of each element, of any shape; only checked for NaN and inf.
        squared_slopes: of the same shape, |dl_i / dprediction|^2.
        targets: of the same shape, int64, the class 0..num_classes-1, or num_classes for none.
        invalid_labels: the flag from ``prepare_labels``; handed on.
        num_classes: number of classes.
        importance: of the same shape, v_i >= 0, or None for 1.
        norms: whether to compute the norms; counts and norms are then over all processes.
    """
    weights = torch.ones_like(losses) if importance is None else importance
    counts = sum_per_class(weights, targets, num_classes)
    if norms:
        counts = all_reduce_sum(counts)
    nonfinite = ~torch.isfinite(losses.sum(dtype=torch.float64) + counts.sum())
    statistics = ClassStatistics(counts, None, nonfinite, invalid_labels, summed=norms)
    if norms:
        squared = sum_per_class(weights.square() * squared_slopes, targets, num_classes)
        statistics.set_norms(all_reduce_sum(squared) / (counts + 1).square())
    return statistics


def logit_gradient_norms(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Computes each logit channel's gradient norm g_k, the measure of the released GBW code.

    g_k = |d/dz_k sum_c L_c|, L_c = sum_{i: y_i = c} CE_i / (n_c + 1), over all pixels of the batch
    and of all processes. An absent class has g_k > 0 where the network predicts it.

    Args:
        logits: (N, K, h, w), any floating dtype; upsampled to the labels' size where smaller.
        labels: (N, H, W) integer class ids 0..K-1 or ``ignore_index``.
        ignore_index: label of pixels without a class.

    Returns:
        (K,) float32, detached, on the logits' device; NaN for non-finite logits on a GPU.

    Raises:
        ValueError: shapes that do not match; on the CPU also unknown labels and NaN or inf.
    """
    check_upsampled(logits, labels)
    targets, invalid = prepare_labels(labels, logits.shape[1], ignore_index)
    statistics = class_statistics(logits.detach(), targets, invalid)
    if may_look(logits) and bool(statistics.nonfinite):
        raise ValueError("the logits hold NaN or inf, so their gradient has no norm")
    assert statistics.measure is not None
    return statistics.measure.float()
