"""What every pass over the logits shares: checked labels, chunks of rows, the softmax in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Elements of one chunk of logits: about a cache on the CPU; on a GPU large enough to fill it.
CHUNK_ELEMENTS_CPU = 2**20
CHUNK_ELEMENTS_GPU = 2**25


class Softmax(NamedTuple):
    """A chunk's softmax, split so that 1 - p at the label keeps its relative precision.

    exponentials: (N, K, h, w) exp(z - max z), with 0 at the label.
    others: (N, 1, h, w) their sum over K: what the softmax gives to the wrong classes, times total.
    total: (N, 1, h, w) the softmax's denominator, label included.
    cross_entropy: (N, 1, h, w) -log p at the label.
    """

    exponentials: Tensor
    others: Tensor
    total: Tensor
    cross_entropy: Tensor


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """Checks that logits and labels describe the same pixels.

    Raises:
        ValueError: wrong number of axes, sizes that differ, no pixels, or labels that are not
            integers.
    """
    if logits.ndim != 4 or not logits.is_floating_point():
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and dtype {logits.dtype}; "
            "expected floating point (N, K, H, W)"
        )
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) != expected:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; logits of shape {tuple(logits.shape)} "
            f"need labels of shape {expected}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels have dtype {labels.dtype}; expected integer class ids")
    if labels.numel() == 0:
        raise ValueError(f"logits of shape {tuple(logits.shape)} hold no pixel")


def check_pixel_weights(pixel_weights: Tensor | None, labels: Tensor) -> None:
    """Checks that there is one weight per pixel.

    Raises:
        ValueError: the shapes differ.
    """
    if pixel_weights is not None and pixel_weights.shape != labels.shape:
        raise ValueError(
            f"pixel weights have shape {tuple(pixel_weights.shape)}; "
            f"expected that of the labels, {tuple(labels.shape)}"
        )


def prepare_labels(labels: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Maps every ignored pixel to the one id ``num_classes``.

    On the CPU a label that is neither a class nor the ignore value raises. On a GPU, where looking
    would wait for the device, such pixels count as ignored and the returned flag says so.

    Args:
        labels: integer, any shape; class ids 0..num_classes-1 or ``ignore_index``.
        num_classes: number of classes K.
        ignore_index: the label of pixels without a class; may be any integer.

    Returns:
        (targets, invalid): int64 class ids of the labels' shape with ``num_classes`` at ignored
        pixels, and a bool tensor of no axes: whether any label was neither.

    Raises:
        ValueError: on the CPU, a label that is neither a class nor the ignore value.
    """
    ids = labels.long()
    ignored = ids == ignore_index
    outside = (ids < 0) | (ids >= num_classes)
    invalid = (outside & ~ignored).any()
    if ids.device.type == "cpu" and bool(invalid):
        found = ids[outside & ~ignored].unique().tolist()
        shown = ", ".join(str(value) for value in found[:10]) + (" ..." if len(found) > 10 else "")
        raise ValueError(
            f"labels hold {shown}; expected class ids 0..{num_classes - 1} or the ignore value "
            f"{ignore_index}. Map the dataset's ids to class ids first."
        )
    return ids.masked_fill(outside | ignored, num_classes), invalid


def per_pixel(class_values: Tensor, targets: Tensor, outside: float = 0.0) -> Tensor:
    """Returns the value of each pixel's class, ``outside`` at pixels without a class.

    Args:
        class_values: (K,).
        targets: int64 from ``prepare_labels``, any shape.
        outside: value at ignored pixels.
    """
    return torch.cat([class_values, class_values.new_full((1,), outside)])[targets]


def sum_per_class(values: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Returns (K,) float64 sums of ``values`` over the pixels of each class.

    Args:
        values: per-pixel values, of the targets' shape.
        targets: int64 from ``prepare_labels``.
        num_classes: K.
    """
    # float64: a running float32 sum over a million pixels loses three digits.
    sums = torch.zeros(num_classes + 1, dtype=torch.float64, device=values.device)
    return sums.index_add_(0, targets.reshape(-1), values.reshape(-1).double())[:-1]


def row_chunks(logits: Tensor) -> Iterator[slice]:
    """Yields slices of rows (axis 2) that together cover the logits, each a bounded piece of work.

    Args:
        logits: (N, K, H, W).
    """
    limit = CHUNK_ELEMENTS_CPU if logits.device.type == "cpu" else CHUNK_ELEMENTS_GPU
    images, classes, height, width = logits.shape
    rows = max(1, limit // (images * classes * width))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def compute_dtype(logits: Tensor) -> torch.dtype:
    """Returns float64 for float64 logits, else float32: half precision is for storage only."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def split_softmax(logits: Tensor, targets: Tensor) -> Softmax:
    """Computes the softmax of a chunk in pieces; at ignored pixels the last class plays the label.

    Args:
        logits: (N, K, h, w) float32 or float64; not changed.
        targets: (N, h, w) int64 from ``prepare_labels``.
    """
    index = targets.clamp(max=logits.shape[1] - 1).unsqueeze(1)
    top = logits.amax(1, keepdim=True)
    exponentials = (logits - top).exp_()
    at_label = exponentials.gather(1, index)
    exponentials.scatter_(1, index, 0.0)
    others = exponentials.sum(1, keepdim=True)
    # log1p: where the label has the top logit this is log(1 + others), exact for tiny others.
    cross_entropy = (top - logits.gather(1, index)) + torch.log1p(others + (at_label - 1))
    return Softmax(exponentials, others, others + at_label, cross_entropy)


def residual(parts: Softmax, targets: Tensor) -> Tensor:
    """Returns softmax - one-hot, (N, K, h, w), the gradient of the cross-entropy; reuses ``parts``.

    The entry at the label is -(sum of the others), not p - 1, which cancels on confident pixels.

    Args:
        parts: from ``split_softmax``; its exponentials are overwritten.
        targets: (N, h, w) the labels given to ``split_softmax``.
    """
    index = targets.clamp(max=parts.exponentials.shape[1] - 1).unsqueeze(1)
    return parts.exponentials.div_(parts.total).scatter_(1, index, -(parts.others / parts.total))


def focal_factor(parts: Softmax, gamma: float) -> Tensor:
    """Returns (1 - p_y)^gamma, (N, 1, h, w): Lin et al. 2017, equation 4."""
    return (parts.others / parts.total).pow(gamma)


def focal_slope(parts: Softmax, gamma: float) -> Tensor:
    """Returns f with d/dz [(1 - p_y)^gamma CE] = f (softmax - one-hot), (N, 1, h, w).

    f = (1 - p)^gamma (1 + gamma p CE / (1 - p)), where CE / (1 - p) -> 1 as p -> 1.
    """
    wrong = parts.others / parts.total
    ratio = torch.where(wrong > 0, parts.cross_entropy / wrong, torch.ones_like(wrong))
    return wrong.pow(gamma) * (1 + gamma * (1 - wrong) * ratio)
