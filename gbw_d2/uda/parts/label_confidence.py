"""Weights of pseudo-labels: the share of confident pixels in the batch, image or segment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.ops.components import connected_regions
from gbw_d2.ops.owners import at_owners, owner_shares
from gbw_d2.uda.parts.class_thresholds import ClassThresholds
from gbw_d2.uda.parts.pseudo_labels import confidence_weights

PER = ("batch", "image", "segment")

# Number of cells along the longer side of the map on which segments are found.
_CELLS = 256


@dataclass(frozen=True)
class LabelSegments:
    """Connected regions of a batch's pseudo-labels, on every ``step``-th row and column.

    Attributes:
        classes: (N, S) int64 class id of each segment number, 255 = none; most numbers are unused.
        owners: (N, h, w) int64, number of each cell's segment, 0..S-1.
        confidence: (N, h, w) float32 in 0..1.
        step: distance between cells, pixels.
    """

    classes: Tensor
    owners: Tensor
    confidence: Tensor
    step: int

    def shares(self, where: Tensor) -> Tensor:
        """Returns (N, h, w) float32, the share of each cell's segment where ``where`` is True."""
        return at_owners(owner_shares(self.owners, self.classes.shape[1], where), self.owners)

    def at_pixels(self, cells: Tensor, rows: int, columns: int) -> Tensor:
        """Spreads values of cells (N, h, w) over the pixels (N, rows, columns) around them."""
        for axis, length in ((1, rows), (2, columns)):
            cell = torch.arange(length, device=cells.device).div(self.step, rounding_mode="floor")
            cells = cells.index_select(axis, cell.clamp(max=cells.shape[axis] - 1))
        return cells


@torch.no_grad()
def label_segments(labels: Tensor, confidence: Tensor, kept: Tensor | None) -> LabelSegments:
    """Finds the connected regions of pseudo-labels.

    Args:
        labels: (N, H, W) int64 class ids.
        confidence: (N, H, W) float32.
        kept: (N, H) bool, rows whose pseudo-labels are used, or None for all; other rows have no
            segments.
    """
    step = -(-max(labels.shape[1:]) // _CELLS)
    cells = slice(step // 2, None, step)
    classes = labels[:, cells, cells]
    if kept is not None:
        classes = torch.where(kept[:, cells].unsqueeze(2), classes, IGNORE_LABEL)
    # A region's number is that of its first cell, which also gives its class.
    owners = connected_regions(classes)
    return LabelSegments(classes.flatten(1), owners, confidence[:, cells, cells], step)


@torch.no_grad()
def label_weights(
    labels: Tensor, confidence: Tensor, thresholds: ClassThresholds, per: str, kept: Tensor | None
) -> Tensor:
    """Weights pseudo-labels by a share of confident pixels, after updating adaptive thresholds.

    A pixel is confident where its confidence reaches its class's threshold. ``batch`` and ``image``
    use the share of DACS, see ``confidence_weights``; ``segment`` uses the share of the pixel's
    connected segment, MC-PanDA's mask-wide scaling for networks that classify pixels. Every process
    must call it.

    Args:
        labels: (N, H, W) int64 class ids.
        confidence: (N, H, W) float32 in 0..1.
        thresholds: the confidence thresholds of the classes.
        per: one of ``PER``.
        kept: (N, H) bool, rows whose pseudo-labels are used, or None for all.

    Returns:
        (N, H, W) float32 in 0..1.
    """
    segments = None
    if thresholds.is_adaptive or per == "segment":
        segments = label_segments(labels, confidence, kept)
        thresholds.take(segments.classes, segments.owners, segments.confidence)
    if per != "segment":
        return confidence_weights(confidence, thresholds.of(labels), per == "image", kept)
    assert segments is not None
    limits = thresholds.of(segments.classes).view_as(segments.confidence)
    shares = segments.shares(segments.confidence >= limits)
    weights = segments.at_pixels(shares, *labels.shape[1:])
    return weights if kept is None else weights * kept.unsqueeze(2)
