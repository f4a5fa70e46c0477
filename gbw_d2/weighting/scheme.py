"""The interface of a weighting scheme, the registry of schemes, and how one is built by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gbw_d2.keys import TERM_SOURCE
from gbw_d2.registry import Registry
from gbw_d2.weighting.mean_weights import MeanWeights, is_mean_weights
from gbw_d2.weighting.settings import WeightingSettings
from gbw_d2.weighting.statistics import ClassStatistics

# Entry of the state: the source's weights that other terms take over.
TAKEN_OVER = "source.taken_over"
COUNTERS = ("calls", "at_min", "at_max", "absent")


class WeightingScheme:
    """Maps the statistics of a batch to one weight per class; one instance per head.

    A subclass fills in ``solve``, and ``set_up`` where it keeps something. On a GPU nothing is
    copied to the host: ``nonfinite`` and ``invalid_labels`` are device flags, set once and kept,
    which the trainer copies without waiting and turns into an error one step later.

    Attributes:
        name: the scheme's registry name.
        num_classes: K.
        settings: its settings.
        needs_norms: whether it reads the squared gradient norms.
        needs_classifier: whether it reads a measure at the classifier, and so that one's input.
        needs_class_counts: whether it is built from the source's pixel counts.
        focal_gamma: exponent of the focal factor in the cross-entropy; 0 for none.
        nonfinite: bool tensor without axes: NaN or inf was met.
        invalid_labels: bool tensor without axes: a label that is neither class nor ignore was met.
    """

    needs_norms: bool = False
    needs_classifier: bool = False
    needs_class_counts: bool = False
    focal_gamma: float = 0.0

    def __init__(
        self,
        name: str,
        num_classes: int,
        settings: WeightingSettings,
        class_counts: Tensor | None = None,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; expected at least 1")
        self.name = name
        self.num_classes = num_classes
        self.settings = settings
        self.nonfinite = torch.zeros((), dtype=torch.bool)
        self.invalid_labels = torch.zeros((), dtype=torch.bool)
        self._counters = torch.zeros(len(COUNTERS), dtype=torch.long)
        # Of the source's batches so far, where the settings let them shape other terms.
        self._of_source: Tensor | None = None
        self._mean_weights = MeanWeights(num_classes)
        self.set_up(class_counts)

    def set_up(self, class_counts: Tensor | None) -> None:
        """Prepares what a scheme has of its own, once its settings are in place.

        Args:
            class_counts: (K,) labelled pixels of the source per class id; None where no scheme
                asked for them.
        """

    @property
    def needs_all_processes(self) -> bool:
        """Whether the statistics, or which classes were seen, must be those of all processes."""
        return self.needs_norms or self.needs_classifier or self.settings.knows_tilt

    def solve(self, statistics: ClassStatistics, term: str) -> Tensor:
        """Returns (K,) float32 weights >= 0 with the sum K; the part that each scheme defines."""
        raise NotImplementedError

    def weights(self, statistics: ClassStatistics, term: str) -> Tensor:
        """Computes the class weights of one batch, and remembers them for ``logit_shift``.

        Args:
            statistics: of the batch.
            term: name of the loss term (source, mixed, pseudo); state is kept apart per term.

        Returns:
            (K,) float32, detached, >= 0, sum K, on the statistics' device. With ``shaped_by``
            "source" a term without weights of its own has the source's, those of classes that its
            batch lacks from an earlier one, rescaled to that sum: floor and cap hold before it.

        Raises:
            ValueError: on the CPU, statistics that are not finite; with ``shaped_by`` "source", a
                term that comes before any of the source.
        """
        flags = statistics.nonfinite, statistics.invalid_labels
        if flags[0].device.type == "cpu" and bool(flags[0]):
            raise ValueError(
                f"the prediction, the classifier's features or the pixel weights of term '{term}' "
                f"hold NaN or inf, so the weights of scheme '{self.name}' cannot be computed"
            )
        self.nonfinite = self.nonfinite.to(flags[0].device) | flags[0]
        self.invalid_labels = self.invalid_labels.to(flags[1].device) | flags[1]
        weights = self._term_weights(statistics, term)
        if self.settings.knows_tilt:
            self._mean_weights.update(term, weights, statistics.counts)
        return weights

    def _term_weights(self, statistics: ClassStatistics, term: str) -> Tensor:
        if term != TERM_SOURCE and self.settings.acts_on == "source":
            return torch.ones(self.num_classes, device=statistics.counts.device)
        if term != TERM_SOURCE and self.settings.shaped_by == "source":
            return self._source_weights(term)
        weights = self.solve(statistics, term).detach()
        if term == TERM_SOURCE and self.settings.shaped_by == "source":
            known = weights if self._of_source is None else self._of_source.to(weights.device)
            # Another term's batch may show a class that this one does not.
            self._of_source = torch.where(statistics.counts > 0, weights, known)
        return weights

    def logit_shift(self, term: str) -> Tensor | None:
        """Returns (K,) float32 to add to the logits in a term's loss; None for nothing.

        It is tau log of the term's mean weights before this batch, so that the gradients that shape
        the weights can be those of the loss with it.
        """
        if self.settings.logit_adjustment == 0:
            return None
        return self._mean_weights.logit_shift(term, self.settings.logit_adjustment)

    def pseudo_label_shift(self) -> Tensor | None:
        """Returns (K,) float32 to add to logits that become pseudo-labels; None for nothing.

        It takes out what the source's mean weights have left in them of their tilt.
        """
        settings = self.settings
        left = settings.pseudo_label_adjustment - settings.logit_adjustment
        return self._mean_weights.logit_shift(TERM_SOURCE, -left) if left > 0 else None

    def measures(self, term: str) -> bool:
        """Whether the weights of a loss term follow from its own statistics."""
        own = self.settings.acts_on == "all" and self.settings.shaped_by == "all"
        return term == TERM_SOURCE or own

    def _source_weights(self, term: str) -> Tensor:
        if self._of_source is None:
            raise ValueError(
                f"shaped_by is 'source', but the loss of term '{term}' came before any of the "
                "source, so there are no weights to take over; set it to 'all'"
            )
        # Classes of an earlier batch may be among them, so the sum need not be K yet.
        total = self._of_source.sum()
        return torch.where(total > 0, self._of_source * (self.num_classes / total), 1.0)

    def count(self, at_min: Tensor, at_max: Tensor, absent: Tensor) -> None:
        """Adds one call to the counters.

        Args:
            at_min: (K,) bool, classes at the floor (0 included).
            at_max: (K,) bool, classes at the cap.
            absent: (K,) bool, classes outside the budget.
        """
        one = torch.ones((), dtype=torch.long, device=absent.device)
        step = torch.stack([one, at_min.sum(), at_max.sum(), absent.sum()])
        self._counters = self._counters.to(step.device) + step

    def counters(self) -> dict[str, Tensor]:
        """Returns calls, and classes at the floor, at the cap and absent, summed over the calls."""
        return dict(zip(COUNTERS, self._counters.unbind(), strict=True))

    def own_state(self) -> dict[str, Tensor]:
        """Returns what ``set_up`` and ``solve`` keep, as plain tensors; each scheme's own."""
        return {}

    def load_own_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what ``own_state`` gave; all of it or, where it raises, nothing.

        Raises:
            ValueError: entries that this scheme does not have.
        """
        if state:
            raise ValueError(
                f"scheme '{self.name}' does not keep {sorted(state)}, which the checkpoint has; it "
                "was written with another scheme or momentum"
            )

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the running state as plain tensors, empty where there is none."""
        state = self._mean_weights.state_dict() | self.own_state()
        return state if self._of_source is None else {**state, TAKEN_OVER: self._of_source}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what ``state_dict`` gave.

        Raises:
            ValueError: entries that this scheme does not have, or lacks with its settings.
        """
        means = {key: value for key, value in state.items() if is_mean_weights(key)}
        taken = state.get(TAKEN_OVER)
        self._check_tilt(state, means)
        if taken is not None and (
            self.settings.shaped_by != "source" or taken.shape != (self.num_classes,)
        ):
            raise ValueError(
                f"the checkpoint of scheme '{self.name}' holds {tuple(taken.shape)} weights of the "
                "source that shape other terms; set shaped_by to 'source', as it was trained, for "
                f"{self.num_classes} classes"
            )
        common = means.keys() | {TAKEN_OVER}
        # Whatever raises comes before anything is replaced.
        mean_weights = MeanWeights(self.num_classes)
        mean_weights.load_state_dict(means)
        self.load_own_state({key: value for key, value in state.items() if key not in common})
        self._mean_weights = mean_weights
        self._of_source = None if taken is None else taken.detach().clone()

    def _check_tilt(self, state: Mapping[str, Tensor], means: Mapping[str, Tensor]) -> None:
        """Checks that a state is of a run that knew the tilt of its weights if this one does."""
        if state and self.settings.knows_tilt and not means:
            raise ValueError(
                f"the checkpoint of scheme '{self.name}' was written without logit_adjustment and "
                "pseudo_label_adjustment; set both to 0 (what 'gbw' was before it had them is "
                "'gbw_fading')"
            )
        if means and not self.settings.knows_tilt:
            raise ValueError(
                f"the checkpoint holds mean weights of scheme '{self.name}', but logit_adjustment "
                "and pseudo_label_adjustment are 0 now; set those it was trained with"
            )


class StaticScheme(WeightingScheme):
    """A scheme whose weights are fixed by the source's pixel counts.

    A class that the source does not have gets weight 1 and no part of the budget; the weights of
    the others sum to their number, so the sum over all K is K.

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
        self._fixed = fixed.float()

    def raw_weights(self, counts: Tensor) -> Tensor:
        """Returns float64 weights up to a factor for float64 counts > 0, both (P,)."""
        raise NotImplementedError

    def solve(self, statistics: ClassStatistics, term: str) -> Tensor:
        self._fixed = self._fixed.to(statistics.counts.device)
        return self._fixed.clone()


@dataclass(frozen=True)
class SchemeEntry:
    """A registered scheme: its class, and the settings in which it differs from the class's own."""

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
) -> WeightingScheme:
    """Builds a scheme by name.

    Args:
        name: a name in ``SCHEMES``.
        num_classes: K.
        overrides: fields of ``WeightingSettings`` that the user set; a value of None, like a
            missing key, means the scheme's own default.
        class_counts: (K,) pixels per class id in the source; static schemes need them.

    Raises:
        ValueError: an unknown name or setting, a value out of range, or missing counts.
    """
    entry = SCHEMES.get(name)
    settings = WeightingSettings.merge(entry.defaults, overrides or {})
    counts = None if class_counts is None else torch.as_tensor(class_counts)
    return entry.scheme(name, num_classes, settings, counts)
