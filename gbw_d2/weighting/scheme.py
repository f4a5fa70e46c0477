"""The interface of weighting schemes, their registry, and the function that builds one by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2.keys import TERM_SOURCE, TERMS
from gbw_d2.registry import Registry
from gbw_d2.settings import merge_settings
from gbw_d2.weighting.log import WeightLog
from gbw_d2.weighting.mean_weights import MeanWeights
from gbw_d2.weighting.pixels import may_look
from gbw_d2.weighting.settings import SchemeSettings
from gbw_d2.weighting.statistics import ClassStatistics

# The measure of the released GBW code; all other measures are taken at the classifier.
NORM = "norm"
COUNTERS = ("calls", "at_min", "at_max", "absent")
# Flags that are set on the device and their meanings; the trainer reports them one step later.
FLAGS = {
    "nonfinite": "predictions, features or pixel weights that are NaN or inf; lower SOLVER.BASE_LR",
    "invalid_labels": "labels that are neither a class nor the ignore value; check the dataset "
    "with its datasets/prepare_*.py --check",
    "source_missing": "weights shaped by the source before any loss of the source; compute that "
    "first, or set WEIGHTING.SHAPED_BY all",
}


class WeightingScheme(nn.Module):
    """Maps the statistics of a batch to one weight per class; every head has its own instance.

    A subclass names its settings dataclass in ``Settings``, implements ``solve``, and implements
    ``set_up`` where it keeps state. State is held in buffers, one set per loss term, all created at
    construction; a count among them says whether a value has been observed. State is updated in
    ``train()`` mode only. On a GPU nothing is copied to the host: flags are set on the device, and
    the trainer copies them asynchronously and raises an error one step later.

    Attributes:
        name: the scheme's registry name.
        num_classes: K.
        settings: the scheme's settings, an instance of ``Settings``.
        terms: names of the loss terms that it keeps state for.
        measure: its measure of each class: "norm", the norm of the class's logit channel's
            gradient; a key of ``gbw_d2.weighting.classifier_measures.CLASSIFIER_MEASURES``; or ""
            for none.
        needs_softmax: whether it is defined for a softmax cross-entropy alone.
        needs_class_counts: whether it is built from the source's pixel counts.
        focal_gamma: exponent of the focal factor in the cross-entropy; 0 for none.
        shares_with: the head whose weights it takes over, None for weights of its own.
    """

    Settings: type[SchemeSettings] = SchemeSettings
    measure: str = ""
    needs_softmax: bool = False
    needs_class_counts: bool = False
    focal_gamma: float = 0.0
    shares_with: str | None = None

    nonfinite: Tensor
    invalid_labels: Tensor
    source_missing: Tensor
    source_weights: Tensor
    source_batches: Tensor
    _counters: Tensor

    def __init__(
        self,
        name: str,
        num_classes: int,
        settings: SchemeSettings,
        class_counts: Tensor | None = None,
        terms: Sequence[str] = TERMS,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; expected at least 1")
        self.name = name
        self.num_classes = num_classes
        self.settings = settings
        self.terms = tuple(terms)
        for flag in FLAGS:
            self.register_buffer(flag, torch.zeros((), dtype=torch.bool), persistent=False)
        self._calls = 0
        # Of the classes at the floor, at the cap, and absent.
        self.register_buffer("_counters", torch.zeros(3, dtype=torch.long), persistent=False)
        self.mean_weights = MeanWeights(num_classes, terms if settings.knows_prior_shift else ())
        if settings.shaped_by == "source":
            # Each class's last weight in the source's loss, which the other terms take over.
            self.register_buffer("source_weights", torch.ones(num_classes))
            self.register_buffer("source_batches", torch.zeros((), dtype=torch.long))
        self.set_up(class_counts)

    def set_up(self, class_counts: Tensor | None) -> None:
        """Prepares the scheme's own state after its settings have been set.

        Args:
            class_counts: (K,) labelled pixels of the source per class id; None where no scheme
                asked for them.
        """

    @property
    def needs_norms(self) -> bool:
        """Whether its measure is the norm of the logit channels' gradients."""
        return self.measure == NORM

    @property
    def needs_classifier(self) -> bool:
        """Whether its measure is taken at the classifier, and so needs the classifier's input."""
        return self.measure not in ("", NORM)

    @property
    def needs_all_processes(self) -> bool:
        """Whether the statistics, or the observed classes, must be gathered over all processes."""
        return bool(self.measure) or self.settings.knows_prior_shift

    def solve(self, statistics: ClassStatistics, term: str) -> Tensor:
        """Returns (K,) float32 weights >= 0 with the sum K; every scheme implements this method."""
        raise NotImplementedError

    def weights(
        self, statistics: ClassStatistics, term: str, log: WeightLog | None = None
    ) -> Tensor:
        """Computes the class weights of one batch, and remembers them for ``logit_shift``.

        Args:
            statistics: of the batch.
            term: name of the loss term (source, mixed, pseudo); state is kept apart per term.
            log: the weights that other heads used in this step.

        Returns:
            (K,) float32, detached, >= 0, sum K, on the statistics' device. With ``shaped_by``
            "source" all other terms use the source's weights; classes that the source's batch lacks
            keep those of an earlier batch, and all are rescaled to the sum K, before which
            ``min_weight`` and ``max_weight`` hold.

        Raises:
            ValueError: a term that was not declared; on the CPU also statistics that are not
                finite, and with ``shaped_by`` "source" a term that comes before any of the source.
        """
        self._check_term(term)
        if may_look(statistics.nonfinite) and bool(statistics.nonfinite):
            raise ValueError(
                f"the prediction, the classifier's features or the pixel weights of term '{term}' "
                f"hold NaN or inf, so the weights of scheme '{self.name}' cannot be computed"
            )
        self.nonfinite = self.nonfinite | statistics.nonfinite
        self.invalid_labels = self.invalid_labels | statistics.invalid_labels
        weights = self.term_weights(statistics, term, log)
        if self.training and self.settings.knows_prior_shift:
            self.mean_weights.update(term, weights, statistics.counts)
        return weights

    def _check_term(self, term: str) -> None:
        if self.terms and term not in self.terms:
            raise ValueError(
                f"scheme '{self.name}' keeps no state for loss term '{term}' (it has: "
                f"{', '.join(self.terms)}); name it in the strategy's `terms`"
            )

    def term_weights(self, statistics: ClassStatistics, term: str, log: WeightLog | None) -> Tensor:
        """Returns a term's own weights or the source's; arguments as in ``weights``."""
        if term != TERM_SOURCE and self.settings.acts_on == "source":
            return torch.ones(self.num_classes, device=statistics.counts.device)
        if term != TERM_SOURCE and self.settings.shaped_by == "source":
            return self._source_weights(term)
        weights = self.solve(statistics, term).detach()
        if self.training and self.settings.shaped_by == "source":
            known = torch.where(self.source_batches > 0, self.source_weights, weights)
            # Another term's batch may contain a class that this one lacks.
            self.source_weights = torch.where(statistics.counts > 0, weights, known)
            self.source_batches = self.source_batches + 1
        return weights

    def _source_weights(self, term: str) -> Tensor:
        missing = self.source_batches == 0
        if may_look(missing) and bool(missing):
            raise ValueError(
                f"shaped_by is 'source', but the loss of term '{term}' came before any of the "
                "source, so there are no weights to take over; set it to 'all'"
            )
        self.source_missing = self.source_missing | missing
        # Some may stem from an earlier batch, so their sum need not be K yet.
        total = self.source_weights.sum()
        return torch.where(total > 0, self.source_weights * (self.num_classes / total), 1.0)

    def logit_shift(self, term: str) -> Tensor | None:
        """Returns the logit adjustment (K,) float32 of a term's loss, or None for none.

        It is tau times the log of the term's mean weights before this batch, so that the weights
        can be computed from the gradients of the adjusted loss.
        """
        if self.settings.logit_adjustment == 0:
            return None
        self._check_term(term)
        return self.mean_weights.logit_shift(term, self.settings.logit_adjustment)

    def pseudo_label_shift(self) -> Tensor | None:
        """Returns (K,) float32 to add to logits before pseudo-labels are taken, or None for none.

        It removes the part of the prior shift that ``logit_adjustment`` leaves in the logits.
        """
        settings = self.settings
        left = settings.pseudo_label_adjustment - settings.logit_adjustment
        return self.mean_weights.logit_shift(TERM_SOURCE, -left) if left > 0 else None

    def measures(self, term: str) -> bool:
        """Whether the weights of a loss term follow from its own statistics."""
        own = self.settings.acts_on == "all" and self.settings.shaped_by == "all"
        return term == TERM_SOURCE or own

    def count(self, at_min: Tensor, at_max: Tensor, absent: Tensor) -> None:
        """Adds one call to the counters.

        Args:
            at_min: (K,) bool, classes at the floor (0 included).
            at_max: (K,) bool, classes at the cap.
            absent: (K,) bool, classes outside the budget.
        """
        if not self.training:
            return
        self._calls += 1
        self._counters = self._counters + torch.stack([at_min, at_max, absent]).sum(1)

    def counters(self) -> dict[str, Tensor]:
        """Returns calls, and classes at the floor, at the cap and absent, summed over the calls."""
        values = (torch.tensor(self._calls), *self._counters.unbind())
        return dict(zip(COUNTERS, values, strict=True))

    def flags(self) -> dict[str, Tensor]:
        """Returns the flags of ``FLAGS``, bool tensors without axes."""
        return {name: self.get_buffer(name) for name in FLAGS}


class ConstantScheme(WeightingScheme):
    """A scheme with constant weights, which its ``set_up`` passes to ``keep``."""

    _constant: Tensor

    def keep(self, weights: Tensor) -> None:
        """Stores the weights (K,); checkpoints omit them, because they follow from the settings."""
        self.register_buffer("_constant", weights.float(), persistent=False)

    def solve(self, statistics: ClassStatistics, term: str) -> Tensor:
        return self._constant.clone()


class StaticScheme(ConstantScheme):
    """A scheme whose weights are fixed by the source's pixel counts.

    A class absent from the source gets weight 1 and does not share the budget; the weights of the
    other classes sum to their number, so the sum over all K classes is K.

    Raises:
        ValueError: the counts are missing, of the wrong length, or not finite numbers >= 0.
    """

    needs_class_counts = True

    def set_up(self, class_counts: Tensor | None) -> None:
        if class_counts is None:
            raise ValueError(
                f"weighting scheme '{self.name}' needs class_counts, the source's labelled pixels "
                "per class id; they come from the source's class statistics"
            )
        counts = class_counts.detach().cpu().double()
        if counts.shape != (self.num_classes,):
            raise ValueError(
                f"class_counts has shape {tuple(counts.shape)}; expected ({self.num_classes},), "
                "one number per class id"
            )
        if not bool((torch.isfinite(counts) & (counts >= 0)).all()):
            raise ValueError(f"class_counts is {counts.tolist()}; expected finite numbers >= 0")
        present = counts > 0
        fixed = torch.ones_like(counts)
        if bool(present.any()):
            raw = self.raw_weights(counts[present])
            fixed[present] = raw / raw.mean()
        self.keep(fixed)

    def raw_weights(self, counts: Tensor) -> Tensor:
        """Returns float64 weights (P,), up to a common factor, for float64 counts (P,) > 0."""
        raise NotImplementedError


@dataclass(frozen=True)
class SchemeEntry:
    """A registered scheme: its class, and the settings that differ from the class's defaults."""

    scheme: type[WeightingScheme]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_class_counts(self) -> bool:
        """Whether ``build_scheme`` needs the source's pixel counts."""
        return self.scheme.needs_class_counts


SCHEMES: Registry[SchemeEntry] = Registry("weighting scheme")


def build_scheme(
    name: str,
    num_classes: int,
    overrides: Mapping[str, Any] | None = None,
    class_counts: Sequence[float] | Tensor | None = None,
    terms: Sequence[str] = TERMS,
) -> WeightingScheme:
    """Builds a weighting scheme by its registry name.

    Args:
        name: a name in ``SCHEMES``.
        num_classes: K.
        overrides: fields of the scheme's settings that the user set; a value of None, like a
            missing key, means the scheme's own default.
        class_counts: (K,) pixels per class id in the source; static schemes need them.
        terms: names of the loss terms that it keeps state for.

    Raises:
        ValueError: an unknown name or setting, a value out of range, or missing counts.
    """
    entry = SCHEMES.get(name)
    kind = f"weighting scheme '{name}'"
    settings = merge_settings(entry.scheme.Settings, kind, entry.defaults, overrides or {})
    counts = None if class_counts is None else torch.as_tensor(class_counts)
    return entry.scheme(name, num_classes, settings, counts, terms)
