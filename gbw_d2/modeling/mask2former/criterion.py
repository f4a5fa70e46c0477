"""Targets of the queries' losses: labels of queries, and masks at points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gbw_d2.modeling.mask2former.decoder import QueryPredictions
from gbw_d2.modeling.mask2former.matching import LossFactors, Matches, match
from gbw_d2.modeling.mask2former.points import own_shares, sample_maps, uncertain_points
from gbw_d2.modeling.targets.slots import SlotTargets


@dataclass(frozen=True)
class PointSettings:
    """Settings of the points at which masks are compared (Mask2Former, section 3.3).

    Args:
        count: points per mask, and per image for the assignment.
        oversampling: candidates per point.
        importance: share of the points that is chosen among them by uncertainty, 0..1.
    """

    count: int = 12544
    oversampling: float = 3.0
    importance: float = 0.75


@dataclass(frozen=True)
class QueryTargets:
    """The targets of the queries in L predictions, with M matched segments.

    Attributes:
        labels: (L, N, Q) int64, K = no object.
        row_weights: (L, N, Q) factor of "no object", 1 for all else; None = 1.
        mask_logits: (L, M, P).
        mask_truth: (L, M, P) 0..1.
        mask_labels: (L, M) int64 class ids.
        importance: (L, M), weight of each segment's mask.
        mass: sum of the weights of all segments, without axes.
    """

    labels: Tensor
    row_weights: Tensor | None
    mask_logits: Tensor
    mask_truth: Tensor
    mask_labels: Tensor
    importance: Tensor
    mass: Tensor


def query_targets(
    predictions: QueryPredictions,
    targets: SlotTargets,
    pixel_weights: Tensor | None,
    factors: LossFactors,
    points: PointSettings,
) -> QueryTargets:
    """Assigns segments to queries, and reads masks at points.

    Args:
        predictions: predictions of all queries.
        targets: the segments.
        pixel_weights: (N, H, W) in 0..1; the weight of a segment's mask is their mean over its
            pixels.
        factors: factors of the assignment's costs.
        points: number and choice of the points.
    """
    present = targets.present()
    matches = match(predictions, targets, present, factors, points.count)
    worth = _worth(targets, pixel_weights)
    logits, truth = _at_points(predictions, targets, matches, points)
    images = matches.images.expand_as(matches.slots)
    found = targets.classes[images, matches.slots]
    nothing = predictions.classes.shape[3] - 1
    layers = torch.arange(len(images), device=images.device).view(-1, 1).expand_as(images)
    labels = found.new_full(predictions.classes.shape[:3], nothing)
    labels[layers, images, matches.queries] = found
    rows = None
    if targets.no_object is not None:
        rows = torch.where(labels == nothing, targets.no_object.view(1, -1, 1), 1.0)
    return QueryTargets(
        labels,
        rows,
        logits,
        truth,
        found,
        worth[images, matches.slots],
        torch.where(present, worth, 0.0).sum(),
    )


def _worth(targets: SlotTargets, pixel_weights: Tensor | None) -> Tensor:
    """Returns (N, S), the mean over a segment's pixels of its reliability and pixel weights."""
    each = targets.reliable
    if pixel_weights is not None:
        each = pixel_weights if each is None else pixel_weights * each
    if each is None:
        return torch.ones(targets.classes.shape, device=targets.classes.device)
    return targets.areas(each) / targets.areas().clamp(min=1)


def _at_points(
    predictions: QueryPredictions, targets: SlotTargets, matches: Matches, points: PointSettings
) -> tuple[Tensor, Tensor]:
    logits, truth = [], []
    for masks, queries, slots in zip(
        predictions.masks, matches.queries, matches.slots, strict=True
    ):
        chosen = masks[matches.images, queries]
        drawn = uncertain_points(
            chosen.detach(),
            points.count,
            points.oversampling,
            points.importance,
            targets.usable,
            matches.images,
        )
        truth.append(own_shares(targets.slots, matches.images, slots, drawn))
        with torch.autocast(masks.device.type, enabled=False):
            logits.append(sample_maps(chosen.float().unsqueeze(1), drawn).squeeze(1))
    return torch.stack(logits), torch.stack(truth)
