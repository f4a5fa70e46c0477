"""GBW turned round: the less a class pulls at the classifier, the more it weighs."""

from __future__ import annotations

import torch
from torch import Tensor

from gbw_d2.weighting.gradient_scheme import (
    ADJUSTED_CLASS_GRADIENTS,
    INITIAL,
    GradientBasedScheme,
)
from gbw_d2.weighting.scheme import SCHEMES, SchemeEntry

# Of the strongest pull: a class that hardly pulls must not take the whole budget.
LEAST_PULL = 1e-3


class EqualPullScheme(GradientBasedScheme):
    """Class weights that even out how hard classes pull at the classifier (docs/equations.md 2d).

    The pull of class c in a step of plain cross-entropy is p_c = s_c |A_c|, its share of the
    pixels times the size of its own gradient, both running means; the programme sees
    (max p / p_c)^power in place of the measure. A class that is small, or learned, weighs more;
    one that stays confused however it is weighted does not, as it would with the measure itself.

    Raises:
        ValueError: scale "initial", which fades weights as the measure vanishes; here they grow.
    """

    def set_up(self, class_counts: Tensor | None) -> None:
        super().set_up(class_counts)
        if self.settings.scale == INITIAL:
            raise ValueError(
                f"scheme '{self.name}' has scale '{INITIAL}', at which weights fade as gradients "
                "do, but its weights grow as gradients vanish; set 'relative'"
            )

    def effective_measure(self, term: str, values: Tensor, counts: Tensor) -> Tensor:
        power = self.settings.frequency_power
        pull = values if power == 0 else values * self.running_share(term, counts).pow(power)
        top = pull.max()
        # A class that was never seen does not pull, and needs no weight. where, not clamp: NaN must
        # stay visible.
        return torch.where(pull == 0, pull, top / pull.clamp(min=LEAST_PULL * top))


SCHEMES.register("gbw_equal_pull")(
    SchemeEntry(EqualPullScheme, {**ADJUSTED_CLASS_GRADIENTS, "power": 0.7, "frequency_power": 1.0})
)
