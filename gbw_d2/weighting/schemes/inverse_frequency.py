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
        "Exponent of the class frequency; 1 is its inverse, 0.5 the inverse of its square root.",
        low=0,
        high=math.inf,
        high_excluded=True,
    )


class InverseFrequencyScheme(StaticScheme):
    """w_k proportional to n_k^-frequency_power over the source; 1 is plain, 0.5 the square root."""

    Settings = InverseFrequencySettings
    settings: InverseFrequencySettings

    def raw_weights(self, counts: Tensor) -> Tensor:
        return (counts / counts.max()).pow(-self.settings.frequency_power)


SCHEMES.register("inverse_frequency")(SchemeEntry(InverseFrequencyScheme))
