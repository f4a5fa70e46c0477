"""Pseudo-labels: a teacher's hard labels, their confidence, and class-balanced thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gbw_d2.weighting.distributed import all_reduce_sum
from gbw_d2.weighting.pixels import row_chunks, shifted_rows


@torch.no_grad()
def pseudo_labels(logits: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns the most probable class of each pixel and its probability.

    Args:
        logits: (N, K, H, W), any floating dtype.
        shift: (K,) to add to them, or None for 0.

    Returns:
        (labels, confidence): (N, H, W) int64 class ids, and (N, H, W) float32 in 1/K..1.
    """
    if logits.ndim != 4:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected (N, K, H, W)")
    shape = (logits.shape[0], *logits.shape[2:])
    labels = torch.empty(shape, dtype=torch.int64, device=logits.device)
    confidence = torch.empty(shape, dtype=torch.float32, device=logits.device)
    # In chunks, because a softmax of all rows would be as large as the logits themselves.
    for rows in row_chunks(logits):
        chunk = shifted_rows(logits, rows, shift).float()
        greatest, labels[:, rows] = chunk.max(1)
        exponentials = (chunk - greatest.unsqueeze(1)).exp_()
        torch.reciprocal(exponentials.sum(1), out=confidence[:, rows])
    return labels, confidence


@torch.no_grad()
def confidence_weights(
    confidence: Tensor,
    threshold: float | Tensor,
    per_image: bool = False,
    kept: Tensor | None = None,
) -> Tensor:
    """Weights pseudo-labels by the share of confident pixels (DACS, Tranheden et al., WACV 2021).

    The share is relative to all pixels, including those that are not kept. Without ``per_image``
    every process must call it.

    Args:
        confidence: (N, H, W) from ``pseudo_labels``.
        threshold: a pixel is confident from this confidence on, 0..1 (0.968 in DACS and DAFormer);
            a number, or (N, H, W), one for each pixel.
        per_image: True for the share of each image, False for that of the batch of all processes.
        kept: (N, H) bool of ``rows_outside_margins``, False for rows with weight 0; None keeps all.

    Returns:
        (N, H, W) float32 in 0..1.
    """
    counts = (confidence >= threshold).sum((1, 2), dtype=torch.float64)
    totals = torch.full_like(counts, confidence[0].numel())
    if not per_image:
        counts, totals = all_reduce_sum(torch.stack([counts.sum(), totals.sum()]))
    share = (counts / totals).float().view(-1, 1, 1)
    weights = share.expand_as(confidence).clone()
    return weights if kept is None else weights * kept.unsqueeze(2)


def rows_outside_margins(places: Sequence[Tensor], rows: int, top: float, bottom: float) -> Tensor:
    """Finds the rows of target crops whose pseudo-labels are used: those outside the margins.

    The ego vehicle's hood and the border of a rectified image have no class, and a teacher's wrong
    labels of them spread into the street (DAFormer and HRDA ignore them on Cityscapes).

    Args:
        places: per image (h,), the position of each row: 0 at the image's upper edge, 1 at its
            lower edge.
        rows: H of the batch; rows that an image lacks are padding.
        top: share of the image's rows at its top that are left out, 0..1.
        bottom: share at its bottom, likewise.

    Returns:
        (N, H) bool, where the places are: True for rows that are used, False in margins and
        padding.
    """
    padded = torch.stack([F.pad(place, (0, rows - len(place)), value=2.0) for place in places])
    return (padded >= top) & (padded < 1 - bottom)


@torch.no_grad()
def class_balanced_thresholds(probs: Tensor, portion: float) -> Tensor:
    """Finds per class the confidence above which a given portion of its predicted pixels lies.

    CBST (Zou et al., ECCV 2018): element floor(portion * n), counted from 1, of the
    descending confidences of the n pixels predicted as the class; 1 where there is no such element.
    This is as in the released code, but without its sub-sampling of every fourth pixel.

    Args:
        probs: (N, K, H, W) probabilities.
        portion: of each class's pixels to keep, 0..1.

    Returns:
        (K,) of the probabilities' dtype.

    Raises:
        ValueError: a portion outside 0..1.
    """
    if not 0 <= portion <= 1:
        raise ValueError(f"portion is {portion}; expected 0..1")
    confidence, predicted = (values.flatten() for values in probs.max(1))
    # Sorted by class, and within a class by descending confidence, with two stable sorts.
    order = confidence.argsort(descending=True)
    order = order[predicted[order].argsort(stable=True)]
    counts = torch.zeros(probs.shape[1], dtype=torch.int64, device=probs.device)
    counts.scatter_add_(0, predicted, torch.ones_like(predicted))
    ranks = (counts.double() * portion).floor().long()
    positions = (counts.cumsum(0) - counts + ranks - 1).clamp(min=0)
    return confidence[order[positions]].masked_fill(ranks == 0, 1)


@torch.no_grad()
def class_balanced_pseudo_labels(
    probs: Tensor, thresholds: Tensor, ignore_index: int = 255
) -> Tensor:
    """Labels a pixel with argmax_c p_c / t_c where that ratio is at least 1 (CBST).

    Args:
        probs: (N, K, H, W) probabilities.
        thresholds: (K,) from ``class_balanced_thresholds``.
        ignore_index: label of pixels whose greatest ratio is below 1.

    Returns:
        (N, H, W) int64.

    Raises:
        ValueError: not one threshold per class.
    """
    if tuple(thresholds.shape) != (probs.shape[1],):
        raise ValueError(
            f"thresholds have shape {tuple(thresholds.shape)}; expected one for each of the "
            f"{probs.shape[1]} classes"
        )
    # A threshold of 0 must not turn probabilities of 0 into NaN.
    limits = thresholds.to(probs.dtype).clamp(min=torch.finfo(probs.dtype).tiny)
    ratio, labels = (probs / limits.view(1, -1, 1, 1)).max(1)
    return labels.masked_fill(~(ratio >= 1), ignore_index)
