"""The assignment of segments to queries with minimum cost, computed on the host once per loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gbw_d2.modeling.mask2former.decoder import QueryPredictions
from gbw_d2.modeling.mask2former.points import sample_maps, segment_shares
from gbw_d2.modeling.targets.slots import SlotTargets


@dataclass(frozen=True)
class LossFactors:
    """Factors of Mask2Former's losses and of the assignment's costs (section 4.1).

    Args:
        classes: of the cross-entropy.
        mask: of the binary cross-entropy.
        dice: of the dice loss.
        no_object: of "no object" within the cross-entropy.
    """

    classes: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    no_object: float = 0.1


@dataclass(frozen=True)
class Matches:
    """Pairs of a query and a slot, as many for each of the L predictions.

    Attributes:
        images: (M,) int64.
        queries: (L, M) int64.
        slots: (L, M) int64.
    """

    images: Tensor
    queries: Tensor
    slots: Tensor


@torch.no_grad()
def match(
    predictions: QueryPredictions,
    targets: SlotTargets,
    present: Tensor,
    factors: LossFactors,
    points: int,
) -> Matches:
    """Assigns a query to each segment, independently for each prediction.

    The costs are those of section 3.3 and of modeling/matcher.py of the reference: probability of
    the class, mean binary cross-entropy and dice at uniform points that all pairs of an image
    share. Costs that are not finite count as the highest cost; the losses report them.

    Args:
        predictions: of all queries.
        targets: the segments.
        present: (N, S) bool, the slots that are segments.
        factors: of the three costs.
        points: per image.
    """
    costs = torch.stack(
        [
            _costs(classes, masks, targets, factors, points)
            for classes, masks in zip(predictions.classes, predictions.masks, strict=True)
        ]
    )
    highest = torch.finfo(costs.dtype).max
    costs = costs.nan_to_num(highest, highest, highest)
    # Infinite for slots without a segment, so that a single copy to the host contains this too.
    found = _assigned(costs.masked_fill(~present.unsqueeze(1), torch.inf).cpu().numpy())
    on_device = torch.from_numpy(found).to(costs.device, non_blocking=True)
    layers = len(costs)
    return Matches(on_device[0], on_device[1 : 1 + layers], on_device[1 + layers :])


def _assigned(costs: np.ndarray) -> np.ndarray:
    """Maps costs (L, N, Q, S), infinite where there is no segment, to (1 + 2 L, M) int64.

    Row 0 is the image, then the queries of each prediction, then the slots.
    """
    layers, images = costs.shape[:2]
    columns: list[np.ndarray] = []
    for image in range(images):
        slots = np.flatnonzero(np.isfinite(costs[0, image, 0]))
        pairs = [linear_sum_assignment(costs[layer, image][:, slots]) for layer in range(layers)]
        queries = np.stack([query for query, _ in pairs])
        chosen = np.stack([slots[place] for _, place in pairs])
        columns.append(np.concatenate([np.full_like(queries[:1], image), queries, chosen]))
    return np.concatenate(columns, axis=1).astype(np.int64)


def _costs(
    classes: Tensor, masks: Tensor, targets: SlotTargets, factors: LossFactors, points: int
) -> Tensor:
    """Returns (N, Q, S) float32 costs of one prediction; in float32 under autocast too."""
    drawn = torch.rand(len(masks), points, 2, device=masks.device)
    with torch.autocast(masks.device.type, enabled=False):
        logits = sample_maps(masks.float(), drawn)
        truth = segment_shares(targets.slots, drawn, targets.classes.shape[1])
        known = targets.classes.clamp(max=classes.shape[2] - 1).unsqueeze(1)
        wanted = classes.float().softmax(2).gather(2, known.expand(-1, classes.shape[1], -1))
        # t softplus(-x) + (1 - t) softplus(x) = softplus(x) - t x
        entropy = F.softplus(logits).sum(2, keepdim=True) - logits @ truth
        probable = logits.sigmoid()
        overlap = 2 * (probable @ truth) + 1
        total = probable.sum(2, keepdim=True) + truth.sum(1, keepdim=True) + 1
        return (
            factors.mask / points * entropy
            + factors.dice * (1 - overlap / total)
            - factors.classes * wanted
        )
