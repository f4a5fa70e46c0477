"""No weighting: every class weighs 1."""

from __future__ import annotations

import torch
from torch import Tensor

from gbw_d2.weighting.scheme import SCHEMES, SchemeEntry, WeightingScheme
from gbw_d2.weighting.statistics import ClassStatistics


class UniformScheme(WeightingScheme):
    """Weight 1 for every class: plain cross-entropy through the same code as every other arm."""

    def solve(self, statistics: ClassStatistics, term: str) -> Tensor:
        return torch.ones(self.num_classes, device=statistics.counts.device)


SCHEMES.register("none")(SchemeEntry(UniformScheme))
