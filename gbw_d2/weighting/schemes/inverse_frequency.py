"""Static weights by inverse pixel frequency, plain or its square root."""

from __future__ import annotations

from torch import Tensor

from gbw_d2.weighting.scheme import SCHEMES, SchemeEntry, StaticScheme


class InverseFrequencyScheme(StaticScheme):
    """w_k proportional to n_k^-frequency_power over the source; 1 is plain, 0.5 the square root."""

    def raw_weights(self, counts: Tensor) -> Tensor:
        return (counts / counts.max()).pow(-self.settings.frequency_power)


SCHEMES.register("inverse_frequency")(SchemeEntry(InverseFrequencyScheme, {"frequency_power": 1.0}))
