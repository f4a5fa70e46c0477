"""The class-weighted cross-entropy that every weighting scheme goes through."""

from __future__ import annotations

from torch import Tensor

from gbw_d2.keys import TERM_SOURCE
from gbw_d2.losses.upsampled import weighted_cross_entropy
from gbw_d2.losses.weighted_loss import WeightedLoss
from gbw_d2.weighting.classifier_measures import (
    check_classifier,
    downsample_labels,
    measure_prepared,
)
from gbw_d2.weighting.log import WeightLog
from gbw_d2.weighting.pixels import compute_dtype, prepare_labels, shifted_rows
from gbw_d2.weighting.statistics import ClassStatistics, class_statistics
from gbw_d2.weighting.upsampled_pixels import check_upsampled


class ClassWeightedCrossEntropy(WeightedLoss):
    """Cross-entropy with class weights from a weighting scheme, "none" included.

    loss = 1 / (N H W) sum_i q_i w_{y_i} CE_i (docs/equations.md 1): a plain mean over all pixels,
    ignored ones included in the denominator. The weights are constants in the backward pass, and so
    are the pixel weights q. CE is computed from the logits upsampled bilinearly to the labels'
    size, which are never stored at that size (:func:`gbw_d2.losses.upsampled_cross_entropy`).

    By default q scales the loss only; with the setting ``pixel_weights_in_gradient`` the class
    losses from which the class weights are computed are sum_i q_i CE_i / (n_c + 1) with n_c = sum_i
    q_i, and a class's count is this n_c throughout.

    With the setting ``logit_adjustment`` tau the logits are replaced by logits + tau log w
    throughout, where w is the mean of the term's weights so far (docs/equations.md 2c).

    In several processes an adaptive scheme sums its statistics over all of them, so every process
    must make the same calls; the loss is that of the process's own pixels.

    Arguments are those of :class:`gbw_d2.losses.WeightedLoss`.
    """

    has_softmax = True

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        pixel_weights: Tensor | None = None,
        classifier: tuple[Tensor, Tensor] | None = None,
        term: str = TERM_SOURCE,
        log: WeightLog | None = None,
    ) -> Tensor:
        """Computes the loss.

        Args:
            logits: (N, K, h, w), any floating dtype and memory format; float32 is used inside.
            labels: (N, H, W) integer class ids 0..K-1 or ``ignore_index``, of any size.
            pixel_weights: (N, H, W) q_i >= 0, or None for 1; no gradient flows to them.
            classifier: (features (N, D, h, w), logits (N, K, h, w)) at the classifier's
                resolution, for schemes with ``needs_classifier``.
            term: which images the loss comes from; see ``gbw_d2.keys``.
            log: receives the weights, counts and measure of this call.

        Returns:
            A float32 tensor without axes (float64 for float64 logits).

        Raises:
            ValueError: shapes that do not match, a missing ``classifier``; on the CPU also labels
                that are neither a class nor the ignore value, and NaN or inf.
        """
        check_upsampled(logits, labels, pixel_weights)
        scheme = self.scheme
        if logits.shape[1] != scheme.num_classes:
            raise ValueError(
                f"logits have {logits.shape[1]} classes; scheme '{scheme.name}' was built for "
                f"{scheme.num_classes}"
            )
        targets, invalid = prepare_labels(labels, scheme.num_classes, self.ignore_index)
        if pixel_weights is not None:
            pixel_weights = pixel_weights.detach().to(compute_dtype(logits))
        shift = scheme.logit_shift(term)
        measured = scheme.measures(term)
        statistics = class_statistics(
            logits.detach(),
            targets,
            invalid,
            pixel_weights,
            norms=scheme.needs_norms and measured,
            all_processes=scheme.needs_all_processes,
            pixel_weights_in_gradient=scheme.settings.pixel_weights_in_gradient,
            focal_gamma=scheme.focal_gamma,
            shift=shift,
        )
        if scheme.needs_classifier and measured:
            self._add_classifier_measure(statistics, targets, pixel_weights, classifier, shift)
        weights = self.class_weights(statistics, term, log)
        return weighted_cross_entropy(
            logits, targets, weights, scheme.focal_gamma, pixel_weights, shift
        )

    def _add_classifier_measure(
        self,
        statistics: ClassStatistics,
        targets: Tensor,
        pixel_weights: Tensor | None,
        classifier: tuple[Tensor, Tensor] | None,
        shift: Tensor | None,
    ) -> None:
        scheme = self.scheme
        if classifier is None:
            raise ValueError(
                f"weighting scheme '{scheme.name}' measures {scheme.measure} and needs "
                "classifier=(features, logits), the classifier's input and output at its own "
                "resolution; pass them, or set the measure to 'norm'"
            )
        features, logits = classifier
        if shift is not None:
            logits = shifted_rows(logits, slice(None), shift)
        size = (logits.shape[2], logits.shape[3])
        if not scheme.settings.pixel_weights_in_gradient or pixel_weights is None:
            small_weights = None
        else:
            small_weights = downsample_labels(pixel_weights, size)
        small_targets = downsample_labels(targets, size)
        check_classifier(features, logits, small_targets)
        statistics.set_measure(
            *measure_prepared(scheme.measure, features, logits, small_targets, small_weights)
        )
