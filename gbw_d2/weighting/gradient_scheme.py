"""The implementation of all GBW schemes: class weights from the gradients of the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gbw_d2.settings import setting
from gbw_d2.weighting.classifier_measures import CLASSIFIER_MEASURES
from gbw_d2.weighting.programme import SCALES, SOLVERS, gbw_weights
from gbw_d2.weighting.running_mean import updated_mean
from gbw_d2.weighting.scheme import NORM, WeightingScheme
from gbw_d2.weighting.settings import SchemeSettings
from gbw_d2.weighting.statistics import ClassStatistics

# Lower bound of a class's share of the pixels, so that a class with hardly any pixels does not take
# the whole budget.
LEAST_PIXEL_SHARE = 1e-4


@dataclass(frozen=True)
class GradientSettings(SchemeSettings):
    """Settings of gradient-based class weighting (docs/equations.md 1, 2 and 2b)."""

    measure: str = setting(
        NORM,
        "Measure of each class: norm, the norm of its logit channel's gradient (released), or "
        "class_gradient or hindrance at the classifier.",
        choices=lambda: (NORM, *CLASSIFIER_MEASURES),
    )
    scale: str = setting(
        "relative",
        "Scale of the measure in the quadratic programme: released, its square, or relative, "
        "divided by its mean over the budget.",
        choices=lambda: tuple(SCALES),
    )
    power: float = setting(
        1.0,
        "Exponent of the measure; without effect on the released scale.",
        low=0,
        low_excluded=True,
        high=math.inf,
        high_excluded=True,
    )
    lam: float = setting(
        1.0,
        "Lambda of the quadratic programme in units of the scale; larger is closer to uniform.",
        low=0,
        low_excluded=True,
        key="LAMBDA",
    )
    momentum: float = setting(
        0.0,
        "Momentum of the measure's running mean, kept per loss term; 0 for none.",
        low=0,
        high=1,
        high_excluded=True,
    )
    budget: str = setting(
        "present",
        "Classes that share the sum of the weights: all (released), or those present in the batch.",
        choices=lambda: ("all", "present"),
    )
    min_pixels: float = setting(
        0,
        "Classes with fewer pixels in the batch leave the budget and get weight 1.",
        low=0,
        high=math.inf,
        high_excluded=True,
    )
    min_weight: float = setting(
        0.0, "Least weight of a class in the budget; the mean weight is 1.", low=0, high=1
    )
    max_weight: float = setting(
        math.inf, "Greatest weight of a class in the budget; the mean weight is 1.", low=1
    )
    qp_solver: str = setting(
        "closed_form",
        "closed_form, or cvxopt, the reference solver, which copies to the host.",
        choices=lambda: SOLVERS,
    )
    frequency_power: float = setting(
        0.0,
        "The measure is divided by the class's running share of the pixels to this power; 0: off.",
        low=0,
        high=math.inf,
        high_excluded=True,
    )


class _TermState(nn.Module):
    """The running state of one loss term, as far as the settings need it.

    Buffers:
        mean, seen: (K,) running mean of the measure, and (K,) bool, whether the class was observed.
        share, batches: (K,) float64 running share of the pixels, and the number of batches in it.
    """

    mean: Tensor
    seen: Tensor
    share: Tensor
    batches: Tensor

    def __init__(self, num_classes: int, settings: GradientSettings) -> None:
        super().__init__()
        if settings.momentum > 0:
            self.register_buffer("mean", torch.zeros(num_classes))
            self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))
        if settings.frequency_power > 0:
            self.register_buffer("share", torch.zeros(num_classes, dtype=torch.float64))
            self.register_buffer("batches", torch.zeros(()))


class GradientBasedScheme(WeightingScheme):
    """GBW (docs/equations.md 1, 2 and 2b): class weights from the gradients of the batch.

    With momentum m the measure g is replaced by its running mean per loss term,
    mean <- m mean + (1 - m) g, updated for the classes that were observed; a class's first
    observation becomes its mean. With ``frequency_power`` b the measure is divided by the b-th
    power of the class's share of the labelled pixels, a running mean over all batches.
    """

    Settings = GradientSettings
    settings: GradientSettings

    def set_up(self, class_counts: Tensor | None) -> None:
        self.measure = self.settings.measure
        self.state = nn.ModuleDict(
            {
                # The buffers' names contain the measure, because the mean of one measure is useless
                # to another.
                self._key(term): _TermState(self.num_classes, self.settings)
                for term in self.terms
                if self.measures(term)
            }
        )

    def _key(self, term: str) -> str:
        return f"{term}_{self.settings.measure}"

    def _kept(self, term: str) -> _TermState:
        state = self.state[self._key(term)]
        assert isinstance(state, _TermState)
        return state

    def solve(self, statistics: ClassStatistics, term: str) -> Tensor:
        settings, measure, observed = self.settings, statistics.measure, statistics.observed
        if measure is None or observed is None:
            raise ValueError(f"scheme '{self.name}' needs {self.measure}; the statistics lack it")
        if settings.momentum > 0:
            # A class too small to appear at the classifier's resolution keeps its previous mean.
            measure, observed = self._running_mean(term, measure, observed)
        budget = statistics.counts >= settings.min_pixels
        if settings.budget == "present":
            budget &= (statistics.counts > 0) & observed
        weights = gbw_weights(
            self.with_pixel_share(term, measure, statistics.counts),
            budget,
            scale=settings.scale,
            lam=settings.lam,
            power=settings.power,
            min_weight=settings.min_weight,
            max_weight=settings.max_weight,
            solver=settings.qp_solver,
        )
        self.count(
            budget & (weights <= settings.min_weight),
            budget & (weights >= settings.max_weight),
            ~budget,
        )
        return weights

    def with_pixel_share(self, term: str, measure: Tensor, counts: Tensor) -> Tensor:
        """Returns the measure divided by a power of each class's share of the pixels.

        To be called once per batch and term, because it updates the running share.

        Args:
            term: loss term.
            measure: (K,) >= 0, of this batch or its running mean.
            counts: (K,) float64 labelled pixels of the batch.

        Returns:
            (K,) >= 0.
        """
        power = self.settings.frequency_power
        return measure if power == 0 else measure * self.pixel_share(term, counts).pow(-power)

    def _running_mean(self, term: str, measure: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the measure's running mean (K,), and (K,) bool, the classes observed so far."""
        state, momentum, measure = self._kept(term), self.settings.momentum, measure.float()
        blended = torch.where(state.seen, momentum * state.mean + (1 - momentum) * measure, measure)
        mean = torch.where(observed, blended, state.mean)
        seen = state.seen | observed
        if self.training:
            state.mean, state.seen = mean, seen
        return mean, seen

    def pixel_share(self, term: str, counts: Tensor) -> Tensor:
        """Returns (K,) float32 running shares of the pixels, at least ``LEAST_PIXEL_SHARE``.

        The share includes this batch; over the first batches it is the plain mean.
        """
        state, labelled = self._kept(term), counts.sum()
        share, batches = updated_mean(
            state.share, state.batches, counts / labelled.clamp(min=1), labelled > 0
        )
        if self.training:
            state.share, state.batches = share, batches
        return share.float().clamp(min=LEAST_PIXEL_SHARE)
