"""Class weights that one head takes over from another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gbw_d2.weighting.log import WeightLog
from gbw_d2.weighting.scheme import WeightingScheme
from gbw_d2.weighting.settings import SchemeSettings
from gbw_d2.weighting.statistics import ClassStatistics


class SharedWeights(WeightingScheme):
    """Uses the weights of another head's loss in the same step and term, for some of its classes.

    They are rescaled to sum to the number of these classes (docs/equations.md 7); all are 1 where
    the other head gives each of them 0. ``min_weight`` and ``max_weight`` hold before the
    rescaling. The other head's loss must have been computed first (``gbw_d2.losses.in_order`` sees
    to that).

    Args:
        other: name of the other head.
        places: indices of its weights to use, in this head's class order.
    """

    _places: Tensor

    def __init__(self, other: str, places: Sequence[int]) -> None:
        super().__init__(f"weights of head {other}", len(places), SchemeSettings(), terms=())
        self.shares_with: str = other
        self.register_buffer("_places", torch.tensor(places), persistent=False)

    def term_weights(self, statistics: ClassStatistics, term: str, log: WeightLog | None) -> Tensor:
        entry = None if log is None else log.get(self.shares_with, term)
        if entry is None:
            raise ValueError(
                f"head '{self.shares_with}' has no weights of term '{term}' to share yet; compute "
                "its loss first, with the same log, or let this head have its own weights"
            )
        chosen = entry.weights.index_select(0, self._places)
        total = chosen.sum()
        return torch.where(total > 0, chosen * (self.num_classes / total), 1.0)
