"""Static weights by inverse pixel frequency, plain or its square root."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from gbw_d2.settings import setting
from gbw_d2.weighting.scheme import SCHEMES, SchemeEntry, StaticScheme
from gbw_d2.weighting.settings import SchemeSettings


@dataclass(frozen=True)
class InverseFrequencySettings(SchemeSettings):
    """Settings of the scheme below."""

    frequency_power: float = setting(
        1.0,
        "Exponent a in w = frequency^-a: 1 is inverse frequency, 0.5 its square root.",
        low=0,
        high=math.inf,
        high_excluded=True,
    )


class InverseFrequencyScheme(StaticScheme):
    """Weights proportional to n_k^-frequency_power, where n_k is the source's pixels of class k."""

    Settings = InverseFrequencySettings
    settings: InverseFrequencySettings

    def raw_weights(self, counts: Tensor) -> Tensor:
        return (counts / counts.max()).pow(-self.settings.frequency_power)


SCHEMES.register("inverse_frequency")(SchemeEntry(InverseFrequencyScheme))
