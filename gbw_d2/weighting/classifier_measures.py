"""Measures of each class's gradient at the classifier: its size, and the hindrance by others."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gbw_d2.weighting.distributed import all_reduce_sum
from gbw_d2.weighting.pixels import (
    check_logits,
    check_pixel_weights,
    chunk_elements,
    compute_dtype,
    count_per_class,
    label_index,
    may_look,
    prepare_labels,
    residual,
    split_softmax,
    sum_per_class,
)

# Pixels of one class per block of the grouped product: padding wastes at most this per class. Few
# pixels, such as RoIs, have smaller blocks.
BLOCK, LEAST_BLOCK = 256, 16


def downsample_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Downsamples labels by nearest neighbour, so that every result is a label of the input.

    Args:
        labels: (N, H, W) labels or pixel weights of any dtype.
        size: (h, w), usually the classifier's resolution.

    Returns:
        (N, h, w): the label of row floor((i + 1/2) H / h), and likewise for columns (PyTorch's
        "nearest-exact" mode).
    """

    def centres(small: int, large: int) -> Tensor:
        return (2 * torch.arange(small, device=labels.device) + 1) * large // (2 * small)

    rows, columns = centres(size[0], labels.shape[1]), centres(size[1], labels.shape[2])
    return labels.index_select(1, rows).index_select(2, columns)


def _grouped_products(gradient: Tensor, features: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
    """Returns (K, K, D): for each class the sum over its pixels of G_i F_i^T, batched.

    The pixels are sorted by class into blocks that hold one class each. There are at most M / block
    + K blocks for any labels, so the shapes are known without a host synchronisation.

    Args:
        gradient: (N, K, h, w) gradient G of the loss with respect to the logits.
        features: (N, D, h, w) input F of the classifier, of any dtype.
        targets: (N, h, w) int64 from ``prepare_labels``; M = N h w.
        sizes: (K + 1,) int64, the pixels of each class and those without one.
    """
    classes, pixels, device = gradient.shape[1], targets.numel(), targets.device
    groups = classes + 1
    block = _block_size(pixels, groups)
    blocks_per_group = (sizes + (block - 1)) // block
    last_block = blocks_per_group.cumsum(0)
    first_slot = (last_block - blocks_per_group) * block
    # int32, because the sort of int64 takes twice as long.
    sorted_ids, order = targets.reshape(-1).int().sort(stable=True)
    shift = first_slot - (sizes.cumsum(0) - sizes)
    slot = torch.arange(pixels, device=device) + shift.index_select(0, sorted_ids)

    blocks = (pixels + block - 1) // block + groups
    # Empty slots point at a last row of zeros.
    source = torch.full((blocks * block,), pixels, device=device).scatter_(0, slot, order)
    owner = torch.searchsorted(last_block, torch.arange(blocks, device=device), right=True)
    left, right = _rows(gradient, gradient.dtype), _rows(features, gradient.dtype)
    sums = gradient.new_zeros(groups + 1, classes, features.shape[1])
    step = max(1, chunk_elements(gradient) // (block * (classes + features.shape[1])))
    # The blocks are processed in portions, because copies of all of them at once are slow to
    # allocate.
    for slots, owners in zip(source.split(step * block), owner.split(step), strict=True):
        one = left.index_select(0, slots).view(-1, block, classes)
        other = right.index_select(0, slots).view(-1, block, features.shape[1])
        sums.index_add_(0, owners, torch.bmm(one.transpose(1, 2), other))
    return sums[:classes]


def _block_size(pixels: int, groups: int) -> int:
    """Returns BLOCK, or a power of two above the mean number of pixels per group if it is less."""
    return min(BLOCK, max(LEAST_BLOCK, 1 << (pixels // groups).bit_length()))


def _rows(maps: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns (M + 1, C) of (N, C, h, w): one row per pixel, and a last one of zeros."""
    images, channels, height, width = maps.shape
    rows = maps.new_empty((images * height * width + 1, channels), dtype=dtype)
    rows[-1] = 0
    rows[:-1].view(images, height, width, channels).copy_(maps.permute(0, 2, 3, 1))
    return rows


def class_hindrance(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    pixel_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes each class's hindrance r_c (docs/equations.md 2b) by :func:`classifier_measure`.

    Returns:
        (ratio, observed): (K,) float32 r_c >= 0 with 0 where absent, and (K,) bool.
    """
    return classifier_measure("hindrance", features, logits, labels, ignore_index, pixel_weights)


@torch.no_grad()
def classifier_measure(
    name: str,
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    pixel_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes a measure of each class's gradient at the classifier, over all processes' batches.

    Definitions (docs/equations.md 2b): A_c is the gradient of class c's mean cross-entropy with
    respect to the classifier's weight, and s_c the class's share of the labelled pixels.

    - "class_gradient": |A_c|, the size of the class's own gradient, independent of other classes;
    - "hindrance": r_c = max(h_c, 0) / (s_c <A_c, A_c>), h_c = - sum_{d != c} s_d <A_c, A_d>: the
      amount by which the other classes' parts of a plain cross-entropy step raise the loss of class
      c, relative to the amount by which the class's own part lowers it. r_c > 1 means that the
      whole step raises the loss of class c; r_c is 0 where A_c is exactly 0.

    With pixel weights q, A_c is the gradient of the q-weighted mean and s_c the class's share of
    sum q.

    Args:
        name: one of the two names above.
        features: (N, D, h, w), the classifier's input.
        logits: (N, K, h, w), the classifier's output at its own resolution.
        labels: (N, h, w) integer class ids or ``ignore_index``; see ``downsample_labels``.
        ignore_index: label of pixels without a class.
        pixel_weights: (N, h, w) q_i >= 0, or None for 1.

    Returns:
        (measure, observed): (K,) float32 >= 0 with 0 where absent, and (K,) bool.

    Raises:
        ValueError: an unknown measure, shapes that do not match; on the CPU also unknown labels and
            NaN or inf.
    """
    if name not in CLASSIFIER_MEASURES:
        raise ValueError(f"measure is '{name}'; expected one of {', '.join(CLASSIFIER_MEASURES)}")
    check_classifier(features, logits, labels)
    check_pixel_weights(pixel_weights, labels)
    targets, _ = prepare_labels(labels, logits.shape[1], ignore_index)
    measure, observed, _ = measure_prepared(name, features, logits, targets, pixel_weights)
    return measure, observed


def check_classifier(features: Tensor, logits: Tensor, labels: Tensor) -> None:
    """Checks that a classifier's input, its output and the labels describe the same pixels.

    Raises:
        ValueError: shapes that do not match, or labels that are not integers.
    """
    check_logits(logits, labels)
    if (
        features.ndim != 4
        or features.shape[0] != logits.shape[0]
        or (features.shape[2:] != logits.shape[2:])
    ):
        raise ValueError(
            f"classifier features have shape {tuple(features.shape)} and its logits "
            f"{tuple(logits.shape)}; expected (N, D, h, w) and (N, K, h, w)"
        )


@torch.no_grad()
def measure_prepared(
    name: str,
    features: Tensor,
    logits: Tensor,
    targets: Tensor,
    pixel_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes what :func:`classifier_measure` does, of arguments that have been checked.

    Args:
        name: as in ``classifier_measure``, like all but the targets.
        features: likewise.
        logits: likewise.
        targets: (N, h, w) int64 from ``prepare_labels``.
        pixel_weights: likewise.

    Returns:
        (measure, observed, nonfinite); the last is bool without axes, whether the measure holds NaN
        or inf.

    Raises:
        ValueError: on the CPU, NaN or inf.
    """
    with _without_autocast(logits.device.type):
        products, counts = _inner_products(
            features.detach(), logits.detach(), targets, pixel_weights
        )
        measure = CLASSIFIER_MEASURES[name](products, counts)
    # Measures are >= 0, and a maximum keeps NaN, which is not below inf.
    nonfinite = ~(measure.max() < math.inf)
    if may_look(measure) and bool(nonfinite):
        raise ValueError("the classifier's features or logits hold NaN or inf")
    return measure.float(), counts > 0, nonfinite


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _class_gradient(products: Tensor, counts: Tensor) -> Tensor:
    return products.diagonal().sqrt()


def _hindrance(products: Tensor, counts: Tensor) -> Tensor:
    shares = counts / counts.sum().clamp(min=torch.finfo(torch.float64).tiny)
    # The amount by which class d's part of a step lowers the loss of class c.
    effects = products * shares.unsqueeze(0)
    own = effects.diagonal()
    hindrance = -(effects.sum(1) - own).clamp(max=0)
    # `where` instead of `clamp`: 0 / 0 shall be 0, but NaN must stay visible.
    return torch.where(own == 0, torch.zeros_like(own), hindrance / own)


# Each maps the inner products <A_c, A_d> (K, K) and the pixels per class (K,) to a measure (K,).
CLASSIFIER_MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "class_gradient": _class_gradient,
    "hindrance": _hindrance,
}


def _inner_products(
    features: Tensor, logits: Tensor, targets: Tensor, pixel_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns <A_c, A_d> as (K, K) and the (weighted) pixels per class as (K,); float64."""
    classes, dtype = logits.shape[1], compute_dtype(logits)
    index = label_index(targets, classes)
    gradient = residual(*split_softmax(logits.to(dtype), index), index)
    sizes = count_per_class(targets, classes + 1)
    if pixel_weights is None:
        counts = sizes[:-1]
    else:
        counts = sum_per_class(pixel_weights, targets, classes)
        gradient = gradient.mul_(pixel_weights.to(dtype).unsqueeze(1))
    products = _grouped_products(gradient, features, targets, sizes.long()).flatten(1)
    products, counts = all_reduce_sum(products), all_reduce_sum(counts)

    means = products / counts.to(dtype).clamp(min=torch.finfo(dtype).tiny).unsqueeze(1)
    return (means @ means.T).double(), counts
