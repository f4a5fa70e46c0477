"""Confidence and class-balanced labels of one whole image, in chunks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gbw_d2.uda.parts.pseudo_labels import class_balanced_pseudo_labels
from gbw_d2.weighting.pixels import row_chunks


@torch.no_grad()
def confidence_and_class(logits: Tensor, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns max_c q(c) p_c and its class at each pixel.

    Args:
        logits: (K, H, W), any floating dtype.
        prior: (K, H, W) q in 0..1, or None for 1.

    Returns:
        (H, W) float32 in 0..1 and (H, W) int64.
    """
    confidence = torch.empty(logits.shape[1:], dtype=torch.float32, device=logits.device)
    classes = torch.empty(logits.shape[1:], dtype=torch.int64, device=logits.device)
    for rows, probs in _probabilities(logits, prior):
        torch.max(probs, 0, out=(confidence[rows], classes[rows]))
    return confidence, classes


@torch.no_grad()
def class_balanced_labels(
    logits: Tensor, thresholds: Tensor, prior: Tensor | None = None
) -> Tensor:
    """Labels a pixel with argmax_c q(c) p_c / t_c where that ratio is at least 1, else with 255.

    Args:
        logits: (K, H, W), any floating dtype.
        thresholds: (K,) t_c.
        prior: (K, H, W) q in 0..1, or None for 1.

    Returns:
        (H, W) uint8 class ids.
    """
    labels = torch.empty(logits.shape[1:], dtype=torch.uint8, device=logits.device)
    for rows, probs in _probabilities(logits, prior):
        labels[rows] = class_balanced_pseudo_labels(probs.unsqueeze(0), thresholds)[0].byte()
    return labels


@torch.no_grad()
def image_score(confidence: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Returns the mean over the classes of an image of their pixels' mean confidence.

    The class-balanced score by which the authors of CBST chose 505 of Cityscapes' 2975 images.

    Args:
        confidence: (H, W) of :func:`confidence_and_class`.
        classes: (H, W) likewise.
        num_classes: K.

    Returns:
        A float64 tensor without axes, 0..1.
    """
    counts = torch.bincount(classes.flatten(), minlength=num_classes)
    sums = torch.bincount(classes.flatten(), confidence.flatten().double(), minlength=num_classes)
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum()


def _probabilities(logits: Tensor, prior: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    # A softmax of all rows would be as large as the logits of the whole image.
    for rows in row_chunks(logits.unsqueeze(0)):
        probs = logits[:, rows].float().softmax(0)
        if prior is not None:
            probs *= prior[:, rows]
        yield rows, probs
