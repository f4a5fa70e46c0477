"""DAFormer's feature distance to ImageNet features, on the cells of thing classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gbw_d2.weighting.distributed import all_reduce_sum, world_size
from gbw_d2.weighting.pixels import prepare_labels


def thing_cells(
    labels: Tensor,
    size: tuple[int, int],
    thing_ids: Sequence[int],
    num_classes: int,
    min_share: float = 0.75,
    ignore_index: int = 255,
) -> Tensor:
    """Chooses the cells of a feature map that are mostly covered by one thing class.

    DAFormer (Hoyer et al., CVPR 2022), thing-class ImageNet feature distance. A class's share is
    relative to all pixels of the cell, including ignored ones.

    Args:
        labels: (N, H, W) int64 class ids.
        size: (h, w) of the feature map. It need not divide (H, W): pixel (y, x) belongs to cell
            (y * h // H, x * w // W).
        thing_ids: class ids of the things.
        num_classes: K.
        min_share: the least share of the cell's most frequent class, 0..1.
        ignore_index: label of pixels without a class.

    Returns:
        (N, h, w) bool.
    """
    images, height, width = labels.shape
    bins = num_classes + 1
    targets, _ = prepare_labels(labels, num_classes, ignore_index)
    rows = torch.arange(height, device=labels.device) * size[0] // height
    columns = torch.arange(width, device=labels.device) * size[1] // width
    cells = rows.unsqueeze(1) * size[1] + columns
    # A scatter instead of a pooled one-hot map, which would need K + 1 floats per pixel.
    counts = torch.zeros(images, size[0] * size[1] * bins, device=labels.device)
    ones = counts.new_ones(()).expand(images, height * width)
    counts.scatter_add_(1, (cells * bins + targets).flatten(1), ones)
    counts = counts.view(images, *size, bins)
    most, winner = counts.max(-1)
    is_thing = torch.zeros(bins, dtype=torch.bool)
    is_thing[list(thing_ids)] = True
    things = is_thing.to(labels.device, non_blocking=True)[winner]
    # If the map is finer than the labels, some cells have no pixel; they are not chosen.
    return things & (most > 0) & (most >= min_share * counts.sum(-1))


def feature_distance(student: Tensor, reference: Tensor, cells: Tensor) -> Tensor:
    """Averages the distance between features over the chosen cells (DAFormer).

    The mean is over the cells of all processes: it equals the mean of the processes' results. Every
    process must call it. Without any chosen cell the result is 0 with gradient 0.

    Args:
        student: (N, C, h, w) features with gradient.
        reference: (N, C, h, w) features of the frozen network; no gradient reaches them.
        cells: (N, h, w) bool from ``thing_cells``.

    Returns:
        A tensor without axes, float32 >= 0.

    Raises:
        ValueError: shapes that differ.
    """
    expected = (student.shape[0], *student.shape[2:])
    if student.shape != reference.shape or tuple(cells.shape) != expected:
        raise ValueError(
            f"features have shapes {tuple(student.shape)} and {tuple(reference.shape)}, cells "
            f"{tuple(cells.shape)}; expected equal features and cells of shape {expected}"
        )
    # vector_norm's gradient at 0 is 0; that of a square root of a sum would be NaN.
    difference = student.float() - reference.detach().float()
    norms = torch.linalg.vector_norm(difference, dim=1)
    divisor = all_reduce_sum(cells.sum(dtype=torch.float32)) / world_size()
    return torch.where(cells, norms, 0).sum() / divisor.clamp(min=1 / world_size())
