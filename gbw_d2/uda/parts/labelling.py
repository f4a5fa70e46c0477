"""Class-balanced pseudo-labels of one whole image, their confidence, and its kept instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gbw_d2.uda.parts.pseudo_labels import class_balanced_pseudo_labels, pseudo_labels
from gbw_d2.weighting.pixels import row_chunks, shifted_rows


@torch.no_grad()
def confidence_and_class(
    logits: Tensor, prior: Tensor | None = None, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns max_c q(c) p_c and the class c that attains it, for each pixel.

    Args:
        logits: (K, H, W), any floating dtype.
        prior: (K, H, W) q in 0..1, or None for 1.
        shift: (K,) to add to the logits, or None for 0.

    Returns:
        (H, W) float32 in 0..1 and (H, W) int64.
    """
    if prior is None:
        # Only the highest probability has to be divided by the softmax's denominator.
        labels, confidence = pseudo_labels(logits.unsqueeze(0), shift)
        return confidence[0], labels[0]
    confidence = torch.empty(logits.shape[1:], dtype=torch.float32, device=logits.device)
    classes = torch.empty(logits.shape[1:], dtype=torch.int64, device=logits.device)
    for rows, probs in _probabilities(logits, prior, shift):
        torch.max(probs, 0, out=(confidence[rows], classes[rows]))
    return confidence, classes


@torch.no_grad()
def class_balanced_labels(
    logits: Tensor,
    thresholds: Tensor,
    prior: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Labels a pixel with argmax_c q(c) p_c / t_c where that ratio is at least 1, else with 255.

    Args:
        logits: (K, H, W), any floating dtype.
        thresholds: (K,) t_c.
        prior: (K, H, W) q in 0..1, or None for 1.
        shift: (K,) to add to the logits, or None for 0.

    Returns:
        (H, W) uint8 class ids.
    """
    labels = torch.empty(logits.shape[1:], dtype=torch.uint8, device=logits.device)
    for rows, probs in _probabilities(logits, prior, shift):
        labels[rows] = class_balanced_pseudo_labels(probs.unsqueeze(0), thresholds)[0].byte()
    return labels


@torch.no_grad()
def image_score(confidence: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Returns the mean over an image's classes of the mean confidence of their pixels.

    By this class-balanced score the authors of CBST chose 505 of Cityscapes' 2975 images.

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


# Instances are written as (class id + 1) x this number + 1, 2, ...
INSTANCES_PER_CLASS = 1000

SegmentsInfo = Sequence[Mapping[str, Any]]


def scores_of_things(segments_info: SegmentsInfo) -> tuple[Tensor, Tensor]:
    """Returns scores (S,) float32 in 0..1 and class ids (S,) of the things of a panoptic map."""
    things = [segment for segment in segments_info if segment["isthing"]]
    scores = torch.tensor([segment["score"] for segment in things], dtype=torch.float32)
    classes = torch.tensor([segment["category_id"] for segment in things], dtype=torch.int64)
    return scores, classes


def kept_instances(
    segments: Tensor,
    segments_info: SegmentsInfo,
    thresholds: Sequence[float],
) -> np.ndarray:
    """Returns the instances whose score reaches the threshold of their class, numbered.

    Args:
        segments: (H, W) segment ids, 0 = void.
        segments_info: ``id``, ``category_id`` (class id), ``isthing`` and ``score`` of each.
        thresholds: least score of each class.

    Returns:
        (H, W) int32: (class id + 1) x 1000 + 1, 2, ... within each class (999 at the most), 0
        elsewhere.
    """
    numbers = np.zeros(1 + max((s["id"] for s in segments_info), default=0), dtype=np.int32)
    found: Counter[int] = Counter()
    scores, classes = scores_of_things(segments_info)
    ids = [segment["id"] for segment in segments_info if segment["isthing"]]
    for number, score, c in zip(ids, scores.tolist(), classes.tolist(), strict=True):
        if score >= thresholds[c] and found[c] < INSTANCES_PER_CLASS - 1:
            found[c] += 1
            numbers[number] = (c + 1) * INSTANCES_PER_CLASS + found[c]
    return numbers[segments.cpu().numpy()]


def _probabilities(
    logits: Tensor, prior: Tensor | None, shift: Tensor | None
) -> Iterator[tuple[slice, Tensor]]:
    # Done in chunks, because a softmax of all rows would be as large as the logits of the whole
    # image.
    image = logits.unsqueeze(0)
    for rows in row_chunks(image):
        probs = shifted_rows(image, rows, shift)[0].float().softmax(0)
        if prior is not None:
            probs *= prior[:, rows]
        yield rows, probs
