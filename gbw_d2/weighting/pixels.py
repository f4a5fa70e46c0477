"""Shared parts of every pass over the logits: label checks, chunks of rows, a stable softmax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Elements of one chunk of logits: about one cache on the CPU, enough to occupy a GPU.
CHUNK_ELEMENTS_CPU = 2**18
CHUNK_ELEMENTS_GPU = 2**25

# Devices whose values the host can read without waiting for the device.
HOST_DEVICES = ("cpu",)


def may_look(tensor: Tensor) -> bool:
    """Whether the host can read a value without synchronisation; if not, flags are read later."""
    return tensor.device.type in HOST_DEVICES


class PixelSoftmax(NamedTuple):
    """Parts of the softmax at each pixel, from which 1 - p is exact even for p close to 1.

    All of shape (N, 1, h, w).

    top: max over K of the logits z.
    others: sum of exp(z - top) over all classes but the label.
    total: the softmax's denominator, label included.
    cross_entropy: -log p at the label.
    """

    top: Tensor
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

    On the CPU a label that is neither a class nor the ignore value is an error. On a GPU, where the
    check would wait for the device, such pixels count as ignored and the returned flag is set.

    Args:
        labels: integer, any shape; class ids 0..num_classes-1 or ``ignore_index``.
        num_classes: number of classes K.
        ignore_index: the label of pixels without a class; may be any integer.

    Returns:
        (targets, invalid): int64 class ids of the labels' shape with ``num_classes`` at ignored
        pixels, and a bool scalar tensor: whether any label was neither a class nor the ignore
        value.

    Raises:
        ValueError: on the CPU, a label that is neither a class nor the ignore value.
    """
    ids = labels.long()
    ignored = ids == ignore_index
    outside = (ids < 0) | (ids >= num_classes)
    invalid = (outside & ~ignored).any()
    if may_look(ids) and bool(invalid):
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
    table = torch.cat([class_values, class_values.new_full((1,), outside)])
    return table.index_select(0, targets.reshape(-1)).view(targets.shape)


def sum_per_class(values: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Returns (K,) float64 sums of ``values`` over the pixels of each class.

    Args:
        values: per-pixel values, of the targets' shape.
        targets: (..., W) int64 from ``prepare_labels``.
        num_classes: K.
    """
    # Row by row first, because on a GPU all pixels of a class would contend for a single sum.
    rows = targets.shape[:-1].numel()
    # float64: a running float32 sum over a million pixels loses three digits.
    sums = torch.zeros(rows, num_classes + 1, dtype=torch.float64, device=values.device)
    sums.scatter_add_(1, targets.reshape(rows, -1), values.reshape(rows, -1).double())
    return sums.sum(0)[:-1]


def count_per_class(targets: Tensor, num_classes: int) -> Tensor:
    """Returns (K,) float64 numbers of pixels; arguments as in ``sum_per_class``."""
    one = torch.ones((), dtype=torch.float64, device=targets.device)
    return sum_per_class(one.expand(targets.shape), targets, num_classes)


def chunk_elements(logits: Tensor) -> int:
    """Returns the number of elements of logits in one chunk on the logits' device."""
    return CHUNK_ELEMENTS_CPU if logits.device.type == "cpu" else CHUNK_ELEMENTS_GPU


def row_chunks(logits: Tensor) -> Iterator[slice]:
    """Yields slices of rows (axis 2) that together cover the logits, each of a bounded size.

    Args:
        logits: (N, K, H, W).
    """
    images, classes, height, width = logits.shape
    rows = max(1, chunk_elements(logits) // (images * classes * width))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def shifted_rows(logits: Tensor, rows: slice, shift: Tensor | None) -> Tensor:
    """Returns some rows of the logits in the computation's dtype, with a shift added per class.

    Args:
        logits: (N, K, H, W).
        rows: from ``row_chunks``.
        shift: (K,), or None for 0.
    """
    chunk = logits[:, :, rows].to(compute_dtype(logits))
    return chunk if shift is None else chunk + shift.to(chunk).view(1, -1, 1, 1)


def compute_dtype(logits: Tensor) -> torch.dtype:
    """Returns float64 for float64 logits, else float32; half precision is only for storage."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def label_index(targets: Tensor, num_classes: int) -> Tensor:
    """Returns the channel of each pixel's label, (N, 1, H, W); the last one at ignored pixels.

    Args:
        targets: (N, H, W) int64 from ``prepare_labels``.
        num_classes: K.
    """
    return targets.clamp(max=num_classes - 1).unsqueeze(1)


def split_softmax(logits: Tensor, index: Tensor) -> tuple[Tensor, PixelSoftmax]:
    """Computes the parts of a chunk's softmax.

    Args:
        logits: (N, K, h, w) float32 or float64; not changed.
        index: (N, 1, h, w) from ``label_index``.

    Returns:
        exp(z - max z) with 0 at the label, (N, K, h, w), and the other parts.
    """
    top = logits.amax(1, keepdim=True)
    exponentials = other_exponentials(logits, top, index)
    others = exponentials.sum(1, keepdim=True)
    below = logits.gather(1, index).sub_(top)
    at_label = below.exp()
    # log1p: where the label has the top logit this is log(1 + others), exact for tiny others.
    cross_entropy = torch.log1p(others + (at_label - 1)).sub_(below)
    return exponentials, PixelSoftmax(top, others, at_label.add_(others), cross_entropy)


def other_exponentials(logits: Tensor, top: Tensor, index: Tensor) -> Tensor:
    """Returns exp(z - top) with 0 at the label; arguments as in ``split_softmax``."""
    return (logits - top).exp_().scatter_(1, index, 0.0)


def residual(
    exponentials: Tensor,
    pixel: PixelSoftmax,
    index: Tensor,
    factor: Tensor | None = None,
) -> Tensor:
    """Writes factor (softmax - one-hot), the cross-entropy's gradient, into ``exponentials``.

    The entry at the label is -(sum of the others) instead of p - 1, which loses its digits by
    cancellation on confident pixels.

    Args:
        exponentials: (N, K, h, w), exp(z - top), anything finite at the label; overwritten.
        pixel: from ``split_softmax``.
        index: (N, 1, h, w) from ``label_index``.
        factor: (N, 1, h, w), or None for 1.
    """
    scale = pixel.total.reciprocal() if factor is None else factor / pixel.total
    return exponentials.mul_(scale).scatter_(1, index, scale.mul_(pixel.others).neg_())


def focal_factor(pixel: PixelSoftmax, gamma: float) -> Tensor:
    """Returns (1 - p_y)^gamma, (N, 1, h, w): Lin et al. 2017, equation 4."""
    return (pixel.others / pixel.total).pow(gamma)


def focal_slope(pixel: PixelSoftmax, gamma: float) -> Tensor:
    """Returns f with d/dz [(1 - p_y)^gamma CE] = f (softmax - one-hot), (N, 1, h, w).

    f = (1 - p)^gamma (1 + gamma p CE / (1 - p)), where CE / (1 - p) -> 1 as p -> 1.
    """
    wrong = pixel.others / pixel.total
    ratio = torch.where(wrong > 0, pixel.cross_entropy / wrong, torch.ones_like(wrong))
    return wrong.pow(gamma) * (1 + gamma * (1 - wrong) * ratio)
