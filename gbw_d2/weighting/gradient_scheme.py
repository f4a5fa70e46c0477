"""The scheme behind all GBW names: class weights from the gradients of the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gbw_d2.settings import setting
from gbw_d2.weighting.classifier_measures import FORMULAS
from gbw_d2.weighting.gbw import SCALES, SOLVERS, gbw_weights
from gbw_d2.weighting.running_mean import updated_mean
from gbw_d2.weighting.scheme import WeightingScheme
from gbw_d2.weighting.settings import SchemeSettings
from gbw_d2.weighting.statistics import ClassStatistics

# Of the pixels: a class that has hardly been seen must not take the whole budget.
LEAST_SHARE = 1e-4

NORM = "norm"
# The relative scale, at a strength that falls with the gradients: the scheme keeps their start.
INITIAL = "initial"


@dataclass(frozen=True)
class GradientSettings(SchemeSettings):
    """Settings of gradient-based class weighting (docs/equations.md 1, 2 and 2b)."""

    measure: str = setting(
        NORM,
        "What is measured of a class: the norm of its logit channel's gradient (released), or "
        "class_gradient, hindrance or interference at the classifier.",
        choices=lambda: (NORM, *FORMULAS),
    )
    scale: str = setting(
        "relative",
        "Scale of the programme's targets: released, relative, or initial (relative, fading as "
        "the gradients do).",
        choices=lambda: (*SCALES, INITIAL),
    )
    power: float = setting(
        1.0,
        "Exponent of the measure, but on the released scale.",
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
        "The measure is divided by this power of the class's running share of the pixels; 0: off.",
        low=0,
        high=math.inf,
        high_excluded=True,
    )


class _TermState(nn.Module):
    """What is kept of a loss term, as far as the settings ask for it.

    Buffers:
        mean, seen: (K,) running mean of the measure; bool, whether the class was observed yet.
        share, batches: (K,) running share of the pixels, float64; number of batches in it.
        level: highest mean of the measure so far, float64, no axes; 0 before the first batch.
    """

    mean: Tensor
    seen: Tensor
    share: Tensor
    batches: Tensor
    level: Tensor

    def __init__(self, num_classes: int, settings: GradientSettings) -> None:
        super().__init__()
        if settings.momentum > 0:
            self.register_buffer("mean", torch.zeros(num_classes))
            self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))
        if settings.frequency_power > 0:
            self.register_buffer("share", torch.zeros(num_classes, dtype=torch.float64))
            self.register_buffer("batches", torch.zeros(()))
        if settings.scale == INITIAL:
            self.register_buffer("level", torch.zeros((), dtype=torch.float64))


class GradientBasedScheme(WeightingScheme):
    """GBW (docs/equations.md 1, 2 and 2b): class weights from the gradients of the batch.

    With momentum m the measure g is replaced by its running mean per loss term,
    mean <- m mean + (1 - m) g, updated for the classes that were observed; a class's first
    observation is taken as it is. With ``frequency_power`` b the measure is divided by the b-th
    power of the class's share of the labelled pixels, a running mean over all batches. On the
    initial scale the strength is what is left of the highest mean of the measure so far.
    """

    Settings = GradientSettings
    settings: GradientSettings

    def set_up(self, class_counts: Tensor | None) -> None:
        self.needs_norms = self.settings.measure == NORM
        self.classifier_measure = "" if self.needs_norms else self.settings.measure
        self.state = nn.ModuleDict(
            {
                # Named by the measure too: its mean is of no use to another one.
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
        values, observed = self._measure(statistics)
        settings = self.settings
        if settings.momentum > 0:
            # A class too small for the classifier's resolution keeps the mean that it has.
            values, observed = self._running_mean(term, values, observed)
        budget = statistics.counts >= settings.min_pixels
        if settings.budget == "present":
            budget &= (statistics.counts > 0) & observed
        values = self.effective_measure(term, values, statistics.counts)
        scale = settings.scale
        strength: float | Tensor = 1.0
        if scale == INITIAL:
            scale, strength = "relative", self._strength(term, values, budget)
        weights = gbw_weights(
            values,
            budget,
            scale=scale,
            lam=settings.lam,
            power=settings.power,
            min_weight=settings.min_weight,
            max_weight=settings.max_weight,
            solver=settings.qp_solver,
            strength=strength,
        )
        self.count(
            budget & (weights <= settings.min_weight),
            budget & (weights >= settings.max_weight),
            ~budget,
        )
        return weights

    def effective_measure(self, term: str, values: Tensor, counts: Tensor) -> Tensor:
        """Returns what the programme weights by: the measure over a power of the class's share.

        Called once per batch and term: it brings the running share up to date.

        Args:
            term: loss term.
            values: (K,) float32 measure >= 0, or its running mean.
            counts: (K,) float64 labelled pixels of the batch.

        Returns:
            (K,) values >= 0.
        """
        power = self.settings.frequency_power
        return values if power == 0 else values * self.running_share(term, counts).pow(-power)

    def _measure(self, statistics: ClassStatistics) -> tuple[Tensor, Tensor]:
        """Returns (K,) values of the measure and (K,) bool, where they were observed."""
        if self.needs_classifier:
            values, observed = statistics.classifier_measure, statistics.classifier_measure_present
            if values is None or observed is None:
                raise ValueError(
                    f"scheme '{self.name}' needs {self.settings.measure}; the statistics lack it"
                )
            return values, observed
        if statistics.norms is None:
            raise ValueError(f"scheme '{self.name}' needs gradient norms; the statistics lack them")
        if statistics.norms_present is not None:
            return statistics.norms, statistics.norms_present
        # An absent class has a norm too, through false positives, but it tells another story than
        # that of its pixels: a running mean over both would fade with every batch without it.
        return statistics.norms, statistics.counts > 0

    def _running_mean(self, term: str, values: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the running mean with this batch, and which classes have been observed."""
        state, momentum, values = self._kept(term), self.settings.momentum, values.float()
        blended = torch.where(state.seen, momentum * state.mean + (1 - momentum) * values, values)
        mean = torch.where(observed, blended, state.mean)
        seen = state.seen | observed
        if self.training:
            state.mean, state.seen = mean, seen
        return mean, seen

    def running_share(self, term: str, counts: Tensor) -> Tensor:
        """Returns (K,) float32 running shares of the pixels, ``LEAST_SHARE`` or more.

        This batch is included; the first ones are averaged plainly.
        """
        state, labelled = self._kept(term), counts.sum()
        share, batches = updated_mean(
            state.share, state.batches, counts / labelled.clamp(min=1), labelled > 0
        )
        if self.training:
            state.share, state.batches = share, batches
        return share.float().clamp(min=LEAST_SHARE)

    def _strength(self, term: str, values: Tensor, budget: Tensor) -> Tensor:
        """Returns what is left, 0..1, of the highest mean of the measure so far."""
        powers = values.double().clamp(min=0).pow(self.settings.power) * budget
        mean = powers.sum() / budget.sum().clamp(min=1)
        state = self._kept(term)
        level = torch.maximum(state.level, mean)
        if self.training:
            state.level = level
        return torch.where(level > 0, mean / level, torch.ones_like(mean))


# Settings by class gradients; a running mean averages out sampling noise.
CLASS_GRADIENTS = {
    "measure": "class_gradient",
    "power": 1.0,
    "lam": 0.5,
    "momentum": 0.99,
    "budget": "present",
    "min_weight": 0.1,
    "frequency_power": 0.25,
}
# On all labels, shaped by those of the source; predictions keep half of the prior shift that the
# weights cause, pseudo-labels nothing of it.
ADJUSTED_CLASS_GRADIENTS = {
    **CLASS_GRADIENTS,
    "scale": "relative",
    "shaped_by": "source",
    "logit_adjustment": 0.5,
    "pseudo_label_adjustment": 1.0,
}
