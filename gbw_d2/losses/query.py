"""Class-weighted losses of a mask classifier's queries (Mask2Former, section 3.3).

Both equal Mask2Former's where every weight is 1. In several processes their divisors are means over
processes, so that the mean of the processes' losses equals that of one process with all the images;
every process must call them, even without any segment.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gbw_d2.keys import TERM_SOURCE
from gbw_d2.losses.roi import ClassWeightedRoIClassification
from gbw_d2.losses.weighted_loss import WeightedLoss
from gbw_d2.weighting.distributed import all_reduce_sum, world_size
from gbw_d2.weighting.log import WeightLog
from gbw_d2.weighting.pixels import compute_dtype, per_pixel, prepare_labels
from gbw_d2.weighting.statistics import element_statistics


class ClassWeightedQueryClassification(ClassWeightedRoIClassification):
    """Softmax cross-entropy of queries over K classes and "no object" (docs/equations.md 7b).

    sum_q e_q w_{y_q} CE_q / D with e_q = 1 at segments and n at "no object", whose class weight
    is 1: it is outside the simplex. D is sum_q e_q, without the class weights, which would cancel
    otherwise, and without the images' factors.
    """

    def forward(  # type: ignore[override]
        self,
        logits: Tensor,
        labels: Tensor,
        features: Tensor | None = None,
        no_object: float = 0.1,
        row_weights: Tensor | None = None,
        term: str = TERM_SOURCE,
        log: WeightLog | None = None,
        predictions: int = 1,
    ) -> Tensor:
        """Computes the loss, summed over the predictions of several layers.

        Args:
            logits: (R, K + 1), "no object" last; all queries of all images and predictions.
            labels: (R,) integer, 0..K-1 or K for "no object".
            features: (R, D), the classifier's input, for schemes with ``needs_classifier``.
            no_object: n, the factor of "no object".
            row_weights: (R,) factor of each query's loss, None for 1.
            term: which images the loss comes from; see ``gbw_d2.keys``.
            log: receives the weights, counts and measure of this call.
            predictions: number of layers that the rows come from, each with equally many rows.

        Returns:
            A tensor without axes.

        Raises:
            ValueError: as in :class:`gbw_d2.losses.roi.ClassWeightedRoIClassification`.
        """
        total = self.weighted_sum(logits, labels, features, term, log, no_object, row_weights)
        empty = (labels == self.scheme.num_classes).sum()
        mass = labels.numel() - (1 - no_object) * empty
        mass = all_reduce_sum(mass.to(total.dtype)) / (world_size() * predictions)
        return total / mass.clamp(min=torch.finfo(mass.dtype).tiny)


class ClassWeightedQueryMask(WeightedLoss):
    """Binary cross-entropy and dice of matched masks, weighted by the segment's class.

    sum_i w_{c_i} q_i (a BCE_i + b dice_i) / S, over points of each mask (docs/equations.md 7b).
    dice = 1 - (2 sum p t + 1) / (sum p + sum t + 1). g_c is the norm of the gradient of the sum
    over class c of l_i / (n_c + 1) in the logits at the points, n_c its matched segments.
    """

    default_ignore_index = -1

    def forward(
        self,
        logits: Tensor,
        truth: Tensor,
        labels: Tensor,
        importance: Tensor,
        mass: Tensor,
        factors: tuple[float, float] = (5.0, 5.0),
        term: str = TERM_SOURCE,
        log: WeightLog | None = None,
    ) -> Tensor:
        """Computes the loss, summed over the predictions of several layers.

        Args:
            logits: (R, P) of the matched masks at their points; R may be 0.
            truth: (R, P), 0..1.
            labels: (R,) integer, 0..K-1, the segments' classes.
            importance: (R,) q_i >= 0; it does not shape the weights.
            mass: this process's part of S, without axes; S is at least 1.
            factors: a and b.
            term: which images the loss comes from; see ``gbw_d2.keys``.
            log: receives the weights, counts and measure of this call.

        Returns:
            A tensor without axes.

        Raises:
            ValueError: on the CPU unknown labels, and NaN or inf.
        """
        scheme = self.scheme
        targets, invalid = prepare_labels(labels, scheme.num_classes, self.ignore_index)
        chosen = logits.to(compute_dtype(logits))
        wanted = truth.to(chosen.dtype)
        losses = _mask_losses(chosen, wanted, *factors)
        norms = scheme.needs_norms and scheme.measures(term)
        slopes = _squared_slopes(chosen.detach(), wanted, *factors) if norms else losses.detach()
        statistics = element_statistics(
            losses.detach(), slopes, targets, invalid, scheme.num_classes, norms=norms
        )
        weights = per_pixel(self.class_weights(statistics, term, log), targets).to(losses.dtype)
        divisor = (all_reduce_sum(mass) / world_size()).clamp(min=1)
        # Without a match the sum is 0 and still has an autograd graph.
        return (losses * weights * importance).sum() / divisor


def _mask_losses(logits: Tensor, truth: Tensor, entropy_factor: float, dice: float) -> Tensor:
    """Returns (R,) a BCE + b dice of each mask; (0,) for none."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
    probable = logits.sigmoid()
    overlap = 2 * (probable * truth).sum(1) + 1
    return entropy_factor * entropy + dice * (1 - overlap / (probable + truth).sum(1).add(1))


def _squared_slopes(logits: Tensor, truth: Tensor, entropy_factor: float, dice: float) -> Tensor:
    """Returns (R,), |dl_i / dlogits|^2 of :func:`_mask_losses`."""
    probable = logits.sigmoid()
    overlap = 2 * (probable * truth).sum(1, keepdim=True) + 1
    total = (probable + truth).sum(1, keepdim=True) + 1
    of_dice = (overlap / total - 2 * truth) / total * probable * (1 - probable)
    of_entropy = (probable - truth) / logits.shape[1]
    return (entropy_factor * of_entropy + dice * of_dice).square().sum(1)
