"""Static weights by the effective number of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gbw_d2.settings import setting
from gbw_d2.weighting.scheme import SCHEMES, SchemeEntry, StaticScheme
from gbw_d2.weighting.settings import SchemeSettings


@dataclass(frozen=True)
class EffectiveNumberSettings(SchemeSettings):
    """Settings of the scheme below."""

    beta: float = setting(
        0.999999,
        "beta = (N - 1) / N for N distinct samples (here pixels) per class; 0 for uniform weights.",
        low=0,
        high=1,
        high_excluded=True,
    )


class EffectiveNumberScheme(StaticScheme):
    """Cui et al. 2019, class-balanced weights: w_k proportional to (1 - beta) / (1 - beta^n_k).

    Samples are pixels here, so 1 / (1 - beta) should be of the order of a class's pixel count: far
    below it every class saturates and the weights become uniform; far above it they become those
    of inverse frequency. beta = 0 gives uniform weights.
    """

    Settings = EffectiveNumberSettings
    settings: EffectiveNumberSettings

    def raw_weights(self, counts: Tensor) -> Tensor:
        if self.settings.beta == 0:
            return torch.ones_like(counts)
        # expm1: 1 - beta^n cancels for beta close to 1.
        return -1 / torch.expm1(counts * math.log(self.settings.beta))


SCHEMES.register("effective_number")(SchemeEntry(EffectiveNumberScheme))
