"""Class-weighted losses of Mask R-CNN's RoI heads (He et al. 2017).

All equal Detectron2's where every weight is 1. In several processes the divisor is the mean over
processes of the number of RoIs, so that the mean of the processes' losses equals the loss of one
process with all the RoIs; every process must call them, even without any RoI.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from gbw_d2.keys import TERM_SOURCE
from gbw_d2.losses.upsampled import weighted_cross_entropy
from gbw_d2.losses.weighted_loss import WeightedLoss
from gbw_d2.weighting.classifier_measures import check_classifier, measure_prepared
from gbw_d2.weighting.distributed import all_reduce_sum, world_size
from gbw_d2.weighting.log import WeightLog
from gbw_d2.weighting.pixels import compute_dtype, per_pixel, prepare_labels, shifted_rows
from gbw_d2.weighting.statistics import ClassStatistics, class_statistics, element_statistics


class ClassWeightedRoIClassification(WeightedLoss):
    """Softmax cross-entropy of RoIs over K classes and the background, whose weight is fixed.

    1 / R sum_r w_{y_r} CE_r; the K weights sum to K, the background's is 1 (docs/equations.md 7).
    The background contributes to the gradients that the weights are computed from: background RoIs
    that are predicted as class k contribute to g_k, and the background may hinder classes.

    Arguments are those of :class:`gbw_d2.losses.WeightedLoss`, for the K foreground classes. RoIs
    take the place of pixels; RoIs without a class have the label -1 and count in R.
    """

    has_softmax = True
    default_ignore_index = -1

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        features: Tensor | None = None,
        term: str = TERM_SOURCE,
        log: WeightLog | None = None,
    ) -> Tensor:
        """Computes the loss.

        Args:
            logits: (R, K + 1), any floating dtype, the background last; R may be 0.
            labels: (R,) integer, 0..K-1, K for background, or ``ignore_index``.
            features: (R, D), the classifier's input, for schemes with ``needs_classifier``.
            term: which images the loss comes from; see ``gbw_d2.keys``.
            log: receives the weights, counts and measure of this call.

        Returns:
            A tensor without axes; 0 for no RoI.

        Raises:
            ValueError: shapes that do not match, missing ``features``; on the CPU also unknown
                labels, and NaN or inf.
        """
        total = self.weighted_sum(logits, labels, features, term, log)
        return total / _roi_divisor(logits.shape[0], logits)

    def weighted_sum(
        self,
        logits: Tensor,
        labels: Tensor,
        features: Tensor | None,
        term: str,
        log: WeightLog | None,
        background: float = 1.0,
        row_weights: Tensor | None = None,
    ) -> Tensor:
        """Computes sum_r q_r w_{y_r} CE_r; every process must call it, even without any RoI.

        Args:
            logits: as in ``forward``, like all arguments up to ``log``.
            labels: likewise.
            features: likewise.
            term: likewise.
            log: likewise.
            background: weight of the background.
            row_weights: (R,) q_r >= 0, or None for 1; they have no influence on the class weights.
        """
        scheme, classes = self.scheme, self.scheme.num_classes
        rois = logits.shape[0]
        _check_shape("logits", logits, (rois, classes + 1))
        _check_shape("labels", labels, (rois,))
        # RoIs become the rows of one image. Without any RoI the statistics are those of one ignored
        # RoI.
        image = _as_image(logits if rois else logits.new_zeros(1, classes + 1))
        rows = labels if rois else labels.new_full((1,), self.ignore_index)
        targets, invalid = prepare_labels(rows.view(1, -1, 1), classes + 1, self.ignore_index)
        shift = scheme.logit_shift(term)
        if shift is not None:
            # The background does not share the budget: its weight is fixed.
            shift = F.pad(shift, (0, 1))
        measured = scheme.measures(term)
        statistics = class_statistics(
            image.detach(),
            targets,
            invalid,
            norms=scheme.needs_norms and measured,
            all_processes=scheme.needs_all_processes,
            focal_gamma=scheme.focal_gamma,
            shift=shift,
        )
        if scheme.needs_classifier and measured:
            shifted = shifted_rows(image, slice(None), shift)
            self._add_classifier_measure(statistics, shifted, targets, features)
        weights = self.class_weights(_without_background(statistics), term, log)
        if not rois:
            return logits.sum() * 0
        everywhere = F.pad(weights, (0, 1), value=background)
        pixels = None if row_weights is None else row_weights.view(1, -1, 1)
        mean = weighted_cross_entropy(image, targets, everywhere, scheme.focal_gamma, pixels, shift)
        return mean * rois

    def _add_classifier_measure(
        self,
        statistics: ClassStatistics,
        image: Tensor,
        targets: Tensor,
        features: Tensor | None,
    ) -> None:
        if features is None:
            measure = self.scheme.measure
            raise ValueError(
                f"weighting scheme '{self.scheme.name}' measures {measure} and "
                "needs features, the classifier's input; pass them, or set the measure to 'norm'"
            )
        inputs = features if features.shape[0] else features.new_zeros(1, features.shape[1])
        maps = _as_image(inputs)
        check_classifier(maps, image, targets)
        statistics.set_measure(*measure_prepared(self.scheme.measure, maps, image, targets))


class ClassWeightedRoIBox(WeightedLoss):
    """Smooth L1 loss of each object's box, weighted by the object's class.

    1 / R sum_r w_{c_r} l_r over the objects among R RoIs, l_r = sum over the four deltas of |e|,
    less beta / 2, below beta e^2 / (2 beta). g_c is the norm of the gradient of sum over class c of
    l_r / (n_c + 1): where no error is below beta it depends on the size of a class and not on its
    error (docs/equations.md 7), so networks use another head's weights here.

    Arguments are those of :class:`gbw_d2.losses.WeightedLoss`, for the K foreground classes.
    """

    default_ignore_index = -1

    def forward(
        self,
        deltas: Tensor,
        true_deltas: Tensor,
        labels: Tensor,
        rois: int,
        beta: float = 0.0,
        term: str = TERM_SOURCE,
        log: WeightLog | None = None,
    ) -> Tensor:
        """Computes the loss.

        Args:
            deltas: (F, 4) predicted box deltas of the objects, from RoI to box; F may be 0.
            true_deltas: (F, 4), the true box deltas.
            labels: (F,) integer, 0..K-1 or ``ignore_index``.
            rois: R, the number of all RoIs, background included.
            beta: the error above which the loss is linear; 0 for the L1 loss.
            term: which images the loss comes from; see ``gbw_d2.keys``.
            log: receives the weights, counts and measure of this call.

        Returns:
            A tensor without axes; 0 for no object.

        Raises:
            ValueError: shapes that do not match; on the CPU also unknown labels, and NaN or inf.
        """
        scheme = self.scheme
        _check_shape("deltas", deltas, (len(labels), 4))
        _check_shape("true_deltas", true_deltas, (len(labels), 4))
        targets, invalid = prepare_labels(labels, scheme.num_classes, self.ignore_index)
        error = deltas.to(compute_dtype(deltas)) - true_deltas
        zero = torch.zeros_like(error)
        losses = F.smooth_l1_loss(error, zero, reduction="none", beta=beta).sum(1)
        z = error.detach()
        slope = z.sign() if beta == 0 else (z / beta).clamp(-1, 1)
        statistics = element_statistics(
            losses.detach(),
            slope.square().sum(1),
            targets,
            invalid,
            scheme.num_classes,
            norms=scheme.needs_norms and scheme.measures(term),
        )
        weights = self.class_weights(statistics, term, log)
        return (losses * per_pixel(weights, targets)).sum() / _roi_divisor(rois, deltas)


class ClassWeightedRoIMask(WeightedLoss):
    """Binary cross-entropy of each RoI's mask in its own class's channel, weighted by that class.

    1 / R sum_r w_{c_r} l_r, l_r the mean over the m x m cells. g_c is the norm of the gradient of
    sum over class c of l_r / (n_c + 1), n_c its RoIs (docs/equations.md 7).

    Arguments are those of :class:`gbw_d2.losses.WeightedLoss`, for the K foreground classes: RoIs
    take the place of pixels; RoIs without a class have the label -1 and no loss, and count in R.
    """

    default_ignore_index = -1

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        masks: Tensor,
        term: str = TERM_SOURCE,
        log: WeightLog | None = None,
    ) -> Tensor:
        """Computes the loss.

        Args:
            logits: (R, K, m, m), any floating dtype; R may be 0.
            labels: (R,) integer, 0..K-1 or ``ignore_index``.
            masks: (R, m, m) bool or 0..1, the truth inside each RoI.
            term: which images the loss comes from; see ``gbw_d2.keys``.
            log: receives the weights, counts and measure of this call.

        Returns:
            A tensor without axes; 0 for no RoI.

        Raises:
            ValueError: shapes that do not match; on the CPU also unknown labels, and NaN or inf.
        """
        scheme, classes = self.scheme, self.scheme.num_classes
        rois, height, width = masks.shape
        _check_shape("logits", logits, (rois, classes, height, width))
        _check_shape("labels", labels, (rois,))
        targets, invalid = prepare_labels(labels, classes, self.ignore_index)
        index = targets.clamp(max=classes - 1).view(-1, 1, 1, 1).expand(-1, 1, height, width)
        chosen = logits.gather(1, index).squeeze(1).to(compute_dtype(logits))
        truth = masks.to(chosen.dtype)
        losses = F.binary_cross_entropy_with_logits(chosen, truth, reduction="none").mean((1, 2))
        z = chosen.detach()
        # sigmoid - truth, computed without the cancellation where the prediction is confident and
        # correct.
        slope = (1 - truth) * z.sigmoid() - truth * (-z).sigmoid()
        statistics = element_statistics(
            losses.detach(),
            slope.square().sum((1, 2)) / (height * width) ** 2,
            targets,
            invalid,
            classes,
            norms=scheme.needs_norms and scheme.measures(term),
        )
        weights = self.class_weights(statistics, term, log)
        return (losses * per_pixel(weights, targets)).sum() / _roi_divisor(rois, logits)


def _as_image(rows: Tensor) -> Tensor:
    """Returns rows (R, C) as an image (1, C, R, 1)."""
    return rows.t()[None, :, :, None]


def _without_background(statistics: ClassStatistics) -> ClassStatistics:
    def foreground(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[:-1]

    return replace(
        statistics,
        counts=statistics.counts[:-1],
        loss_sums=foreground(statistics.loss_sums),
        measure=foreground(statistics.measure),
        observed=foreground(statistics.observed),
    )


def _roi_divisor(rois: int, like: Tensor) -> Tensor:
    """Returns the mean number of RoIs over the processes, or 1 if no process has any."""
    mine = torch.full((), float(rois), device=like.device)
    return (all_reduce_sum(mine) / world_size()).clamp(min=1 / world_size())


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} have shape {tuple(tensor.shape)}; expected {expected}")
