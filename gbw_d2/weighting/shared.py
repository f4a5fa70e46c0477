"""Weights that one head takes over from another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gbw_d2.weighting.scheme import WeightingScheme
from gbw_d2.weighting.settings import WeightingSettings
from gbw_d2.weighting.statistics import ClassStatistics


class SharedWeights(WeightingScheme):
    """The weights of another head's last call of the same term, for a part of its classes.

    They are rescaled to sum to the number of these classes (docs/equations.md 7); all 1 where the
    other head gives every one of them 0. Its floor and cap hold before the rescaling. The other
    head's loss must have been computed first.

    Args:
        lender: name of the other head, for errors.
        class_ids: which of its classes, in this head's order.
        weights_of: term -> (K,) weights of its last call, or None before the first.
    """

    def __init__(
        self,
        lender: str,
        class_ids: Sequence[int],
        weights_of: Callable[[str], Tensor | None],
    ) -> None:
        super().__init__(f"weights of head {lender}", len(class_ids), WeightingSettings())
        self.lender = lender
        self._class_ids = torch.tensor(class_ids)
        self._weights_of = weights_of

    def solve(self, statistics: ClassStatistics, term: str) -> Tensor:
        lent = self._weights_of(term)
        if lent is None:
            raise ValueError(
                f"head '{self.lender}' has no weights of term '{term}' to share yet; compute its "
                "loss first, or let this head have its own weights"
            )
        self._class_ids = self._class_ids.to(lent.device)
        chosen = lent.index_select(0, self._class_ids)
        total = chosen.sum()
        return torch.where(total > 0, chosen * (self.num_classes / total), 1.0)
