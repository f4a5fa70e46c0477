"""GBW as a loss to be used by itself, in any torch project."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from gbw_d2.keys import TERM_SOURCE
from gbw_d2.losses.cross_entropy import ClassWeightedCrossEntropy, LastCall
from gbw_d2.weighting.scheme import WeightingScheme, build_scheme


class GBWCrossEntropyLoss(nn.Module):
    """Cross-entropy with gradient-based class weights, computed anew from every batch.

    loss = mean over all N H W pixels of q_i w_{y_i} CE_i, w from docs/equations.md 1 (scale
    "released") or 2 ("relative", "initial"), of the norm (1) or a measure at the classifier (2b).
    The defaults are those of the scheme "gbw_norm", which needs no classifier.

    Args:
        num_classes: K.
        ignore_index: label of pixels without a class.
        scale: "relative", "released" or "initial".
        lam: lambda > 0, in units of the scale.
        power: exponent of the measure, but on the released scale.
        measure: "norm"; or "hindrance", "interference", "class_gradient", which need ``classifier``
            in each call.
        momentum: 0..<1 of the measure's running mean.
        budget: "present" or "all" classes share the weights' sum.
        min_pixels: classes with fewer pixels in the batch get weight 1.
        min_weight: floor of the weights, 0..1.
        max_weight: cap of the weights, >= 1.
        pixel_weights_in_gradient: whether pixel weights shape the class weights.
        frequency_power: the measure is divided by this power of the class's running share of the
            pixels; 0 for none.
        logit_adjustment: 0..1, how far the logits are freed of the tilt that the weights give them.
        qp_solver: "closed_form" or "cvxopt".

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        scale: str = "relative",
        lam: float = 1.0,
        power: float = 1.0,
        measure: str = "norm",
        momentum: float = 0.0,
        budget: str = "present",
        min_pixels: float = 0,
        min_weight: float = 0.0,
        max_weight: float = math.inf,
        pixel_weights_in_gradient: bool = False,
        frequency_power: float = 0.0,
        logit_adjustment: float = 0.0,
        qp_solver: str = "closed_form",
    ) -> None:
        super().__init__()
        settings = {
            "scale": scale,
            "lam": lam,
            "power": power,
            "measure": measure,
            "momentum": momentum,
            "budget": budget,
            "min_pixels": min_pixels,
            "min_weight": min_weight,
            "max_weight": max_weight,
            "pixel_weights_in_gradient": pixel_weights_in_gradient,
            "frequency_power": frequency_power,
            "logit_adjustment": logit_adjustment,
            "qp_solver": qp_solver,
        }
        self._loss = ClassWeightedCrossEntropy(
            build_scheme("gbw_norm", num_classes, settings), ignore_index
        )

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        pixel_weights: Tensor | None = None,
        classifier: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Computes the loss; arguments and errors as in ``ClassWeightedCrossEntropy``.

        Args:
            logits: (N, K, H, W), any floating dtype.
            labels: (N, H, W) integer class ids 0..K-1 or ``ignore_index``.
            pixel_weights: (N, H, W) q_i >= 0, or None for 1.
            classifier: (features (N, D, h, w), logits (N, K, h, w)), for a measure at
                it.

        Returns:
            A tensor without axes.
        """
        return self._loss(logits, labels, pixel_weights, classifier)

    @property
    def scheme(self) -> WeightingScheme:
        """The scheme behind the loss, with its flags and counters."""
        return self._loss.scheme

    @property
    def weights(self) -> Tensor | None:
        """(K,) weights of the last call; None before the first."""
        return None if self._last is None else self._last.weights

    @property
    def norms(self) -> Tensor | None:
        """(K,) gradient norms of the last call; None before it and for any other measure."""
        return None if self._last is None else self._last.norms

    @property
    def classifier_measure(self) -> Tensor | None:
        """(K,) measure at the classifier of the last call; None before it and for "norm"."""
        return None if self._last is None else self._last.classifier_measure

    @property
    def _last(self) -> LastCall | None:
        return self._loss.last.get(TERM_SOURCE)

    def get_extra_state(self) -> dict[str, Tensor]:
        """Returns what the scheme remembers, for ``state_dict``."""
        return self.scheme.state_dict()

    def set_extra_state(self, state: Any) -> None:
        """Restores what the scheme remembered, for ``load_state_dict``."""
        self.scheme.load_state_dict(state)
