"""Focal loss as a rival of class weighting: it weighs pixels, not classes."""

from __future__ import annotations

import torch
from torch import Tensor

from gbw_d2.weighting.scheme import SCHEMES, SchemeEntry, WeightingScheme
from gbw_d2.weighting.statistics import ClassStatistics


class FocalScheme(WeightingScheme):
    """Lin et al. 2017, equation 4: (1 - p)^gamma CE at every pixel, all class weights 1.

    The factor is part of the differentiated loss, as in the paper.
    """

    def set_up(self, class_counts: Tensor | None) -> None:
        self.focal_gamma = self.settings.gamma

    def solve(self, statistics: ClassStatistics, term: str) -> Tensor:
        return torch.ones(self.num_classes, device=statistics.counts.device)


SCHEMES.register("focal")(SchemeEntry(FocalScheme, {"gamma": 2.0}))
