"""Focal loss, an alternative to class weighting that weights pixels instead of classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gbw_d2.settings import setting
from gbw_d2.weighting.scheme import SCHEMES, ConstantScheme, SchemeEntry
from gbw_d2.weighting.settings import SchemeSettings


@dataclass(frozen=True)
class FocalSettings(SchemeSettings):
    """Settings of the scheme below."""

    gamma: float = setting(
        2.0,
        "Exponent of 1 - p at the label; 0 is plain cross-entropy.",
        low=0,
        high=math.inf,
        high_excluded=True,
    )


class FocalScheme(ConstantScheme):
    """Lin et al. 2017, equation 4: (1 - p)^gamma CE at every pixel, all class weights 1.

    The factor is part of the differentiated loss, as in the paper.
    """

    Settings = FocalSettings
    settings: FocalSettings
    needs_softmax = True

    def set_up(self, class_counts: Tensor | None) -> None:
        self.focal_gamma = self.settings.gamma
        self.keep(torch.ones(self.num_classes))


SCHEMES.register("focal")(SchemeEntry(FocalScheme))
