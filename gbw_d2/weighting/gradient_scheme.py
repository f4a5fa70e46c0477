"""The scheme behind all GBW names: class weights from the gradients of the batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gbw_d2.weighting.gbw import gbw_weights
from gbw_d2.weighting.running_mean import updated_mean
from gbw_d2.weighting.scheme import WeightingScheme
from gbw_d2.weighting.settings import CLASSIFIER_MEASURES, INITIAL
from gbw_d2.weighting.statistics import ClassStatistics

# Of the pixels: a class that has hardly been seen must not take the whole budget.
LEAST_SHARE = 1e-4


class GradientBasedScheme(WeightingScheme):
    """GBW (docs/equations.md 1, 2 and 2b): class weights from the gradients of the batch.

    With momentum m the measure g is replaced by its running mean per loss term,
    mean <- m mean + (1 - m) g, updated for the classes that were observed; a class's first
    observation is taken as it is. With ``frequency_power`` b the measure is divided by the b-th
    power of the class's share of the labelled pixels, a running mean over all batches. On the
    initial scale the strength is what is left of the highest mean of the measure so far.
    """

    def set_up(self, class_counts: Tensor | None) -> None:
        self.needs_classifier = self.settings.measure in CLASSIFIER_MEASURES
        self.needs_norms = not self.needs_classifier
        self._means: dict[str, Tensor] = {}
        self._seen: dict[str, Tensor] = {}
        self._shares: dict[str, Tensor] = {}
        self._batches: dict[str, Tensor] = {}
        self._levels: dict[str, Tensor] = {}

    def solve(self, statistics: ClassStatistics, term: str) -> Tensor:
        values, observed = self._measure(statistics)
        settings = self.settings
        if settings.momentum > 0:
            values = self._running_mean(term, values, observed)
            # A class too small for the classifier's resolution keeps the mean that it has.
            observed = self._seen[term]
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

    def _running_mean(self, term: str, values: Tensor, observed: Tensor) -> Tensor:
        momentum, values = self.settings.momentum, values.float()
        old = self._means.get(term, torch.zeros_like(values)).to(values.device)
        seen = self._seen.get(term, torch.zeros_like(observed)).to(values.device)
        blended = torch.where(seen, momentum * old + (1 - momentum) * values, values)
        self._means[term] = torch.where(observed, blended, old)
        self._seen[term] = seen | observed
        return self._means[term]

    def running_share(self, term: str, counts: Tensor) -> Tensor:
        """Returns (K,) float32 running shares of the pixels, ``LEAST_SHARE`` or more.

        This batch is included; the first ones are averaged plainly.
        """
        labelled = counts.sum()
        self._shares[term], self._batches[term] = updated_mean(
            self._shares.get(term, torch.zeros_like(counts)).to(counts.device),
            self._batches.get(term, torch.zeros((), device=counts.device)).to(counts.device),
            counts / labelled.clamp(min=1),
            labelled > 0,
        )
        return self._shares[term].float().clamp(min=LEAST_SHARE)

    def _strength(self, term: str, values: Tensor, budget: Tensor) -> Tensor:
        """Returns what is left, 0..1, of the highest mean of the measure so far."""
        powers = values.double().clamp(min=0).pow(self.settings.power) * budget
        mean = powers.sum() / budget.sum().clamp(min=1)
        level = torch.maximum(self._levels.get(term, mean).to(mean.device), mean)
        self._levels[term] = level
        return torch.where(level > 0, mean / level, torch.ones_like(mean))

    def _state(self) -> dict[str, dict[str, Tensor]]:
        tables = {"mean": self._means, "seen": self._seen}
        tables |= {"share": self._shares, "batches": self._batches}
        return tables | {"level": self._levels}

    def own_state(self) -> dict[str, Tensor]:
        return {
            f"{term}.{part}": value
            for part, table in self._state().items()
            for term, value in table.items()
        }

    def load_own_state(self, state: Mapping[str, Tensor]) -> None:
        tables: dict[str, dict[str, Tensor]] = {part: {} for part in self._state()}
        for key, value in state.items():
            term, _, part = key.rpartition(".")
            shape = () if part in ("batches", "level") else (self.num_classes,)
            if part not in tables or value.shape != shape:
                raise ValueError(
                    f"weighting state '{key}' has shape {tuple(value.shape)}; expected "
                    f"'<term>.mean', '.seen' and '.share' of shape ({self.num_classes},), and "
                    "'<term>.batches' and '.level' without axes"
                )
            tables[part][term] = value.detach().clone()
        for one, other in (("mean", "seen"), ("share", "batches")):
            if tables[one].keys() != tables[other].keys():
                raise ValueError(f"weighting state is incomplete: {sorted(state)}")
        if tables["mean"] and self.settings.momentum == 0:
            raise ValueError(
                f"the checkpoint holds running means of scheme '{self.name}', but momentum is 0 "
                "now; set the momentum it was trained with"
            )
        if tables["share"] and self.settings.frequency_power == 0:
            raise ValueError(
                f"the checkpoint holds running shares of scheme '{self.name}', but the frequency "
                "power is 0 now; set the one it was trained with"
            )
        if tables["level"] and self.settings.scale != INITIAL:
            raise ValueError(
                f"the checkpoint of scheme '{self.name}' knows the run's start, but the scale is "
                f"'{self.settings.scale}' now; set '{INITIAL}', as it was trained"
            )
        self._means, self._seen = tables["mean"], tables["seen"]
        self._shares, self._batches = tables["share"], tables["batches"]
        self._levels = tables["level"]


# Settings by class gradients; a running mean takes the chance of the draw out of them.
CLASS_GRADIENTS = {
    "measure": "class_gradient",
    "power": 1.0,
    "lam": 0.5,
    "momentum": 0.99,
    "budget": "present",
    "min_weight": 0.1,
    "frequency_power": 0.25,
}
# On all labels, shaped by those of the source; predictions keep half of the tilt, pseudo-labels
# nothing of it.
ADJUSTED_CLASS_GRADIENTS = {
    **CLASS_GRADIENTS,
    "scale": "relative",
    "shaped_by": "source",
    "logit_adjustment": 0.5,
    "pseudo_label_adjustment": 1.0,
}
