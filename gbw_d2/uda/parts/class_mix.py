"""ClassMix: pastes half of a source image's classes onto a target image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gbw_d2.weighting.pixels import prepare_labels


def class_scores(rngs: Sequence[np.random.Generator], num_classes: int) -> Tensor:
    """Draws the random scores that decide which classes of each image are pasted.

    Args:
        rngs: one generator per image.
        num_classes: K.

    Returns:
        (N, K) float32 on the CPU, uniform in 0..1.
    """
    return torch.from_numpy(np.stack([rng.random(num_classes, dtype=np.float32) for rng in rngs]))


def present_classes(labels: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Returns (N, K) bool, whether an image has a pixel of a class.

    Args:
        labels: (N, H, W) int64 class ids.
        num_classes: K.
        ignore_index: label of pixels without a class.
    """
    targets, _ = prepare_labels(labels, num_classes, ignore_index)
    found = torch.zeros(len(labels), num_classes + 1, dtype=torch.bool, device=labels.device)
    return found.scatter_(1, targets.flatten(1), True)[:, :num_classes]


def drawn_classes(
    labels: Tensor, scores: Tensor, ignore_index: int = 255, present: Tensor | None = None
) -> Tensor:
    """Chooses the ceil(n/2) classes with the highest scores among the n classes of each image.

    Olsson et al., ClassMix, WACV 2021; DACS (Tranheden et al., WACV 2021). The DACS code draws
    among the classes of the whole batch, the ignore value included; here pixels without a label are
    never pasted, because they would only hide target pixels.

    Args:
        labels: (N, H, W) int64 class ids of the source images.
        scores: (N, K) from ``class_scores``, on the labels' device.
        ignore_index: label of pixels without a class.
        present: (N, K) bool, the classes to draw from; None for those of each image.

    Returns:
        (N, K + 1) bool; column K, for ignored pixels, is False.

    Raises:
        ValueError: ``present`` of another shape than the scores.
    """
    if present is None:
        present = present_classes(labels, scores.shape[1], ignore_index)
    if present.shape != scores.shape:
        raise ValueError(
            f"present has shape {tuple(present.shape)}; expected that of the scores, "
            f"{tuple(scores.shape)}"
        )
    order = scores.masked_fill(~present, -1).argsort(dim=1, descending=True, stable=True)
    wanted = (present.sum(1, keepdim=True) + 1) // 2
    first = torch.arange(scores.shape[1], device=scores.device) < wanted
    drawn = torch.zeros(len(scores), scores.shape[1] + 1, dtype=torch.bool, device=scores.device)
    return drawn.scatter_(1, order, first)


def mix_mask(labels: Tensor, drawn: Tensor, ignore_index: int = 255) -> Tensor:
    """Returns (N, H, W) bool: the source pixels that are pasted.

    Args:
        labels: (N, H, W) int64 class ids of the source images.
        drawn: (N, K + 1) bool from ``drawn_classes``.
        ignore_index: label of pixels without a class.
    """
    targets, _ = prepare_labels(labels, drawn.shape[1] - 1, ignore_index)
    return drawn.gather(1, targets.flatten(1)).view_as(labels)
