"""The schemes of gradient-based class weighting: presets, and one that balances gradient shares."""

from __future__ import annotations

import torch
from torch import Tensor

from gbw_d2.weighting.gradient_scheme import GradientBasedScheme
from gbw_d2.weighting.scheme import NORM, SCHEMES, SchemeEntry

# Lower bound relative to the largest share, so that a class with hardly any gradient does not take
# the whole budget.
LEAST_GRADIENT_SHARE = 1e-3


class BalancedScheme(GradientBasedScheme):
    """Class weights that fall with a class's share of the gradient (docs/equations.md 2d).

    The gradient share of class c in a step of plain cross-entropy is p_c = s_c |A_c|, its share of
    the pixels times the size of its own gradient, both running means; the quadratic programme gets
    max p / p_c in place of the measure. A rare class, or one that is already learned, gets a larger
    weight; a class that stays confused whatever its weight does not, as it would with the measure
    itself.
    """

    def with_pixel_share(self, term: str, measure: Tensor, counts: Tensor) -> Tensor:
        power = self.settings.frequency_power
        share = measure if power == 0 else measure * self.pixel_share(term, counts).pow(power)
        top = share.max()
        # A class that was never observed has no gradient and needs no weight. `where` instead of
        # `clamp`, so that NaN stays visible.
        return torch.where(share == 0, share, top / share.clamp(min=LEAST_GRADIENT_SHARE * top))


# Measures class gradients, whose running mean averages out sampling noise. The weights act on all
# labels and are computed from source labels. Predictions keep half of the prior shift that the
# weights cause, pseudo-labels keep none of it.
CLASS_GRADIENTS = {
    "measure": "class_gradient",
    "scale": "relative",
    "power": 1.0,
    "lam": 0.5,
    "momentum": 0.99,
    "budget": "present",
    "min_weight": 0.1,
    "frequency_power": 0.25,
    "shaped_by": "source",
    "logit_adjustment": 0.5,
    "pseudo_label_adjustment": 1.0,
}
BALANCED = {**CLASS_GRADIENTS, "power": 0.7, "frequency_power": 1.0}
HINDRANCE = {
    "measure": "hindrance",
    "scale": "relative",
    "power": 0.5,
    "lam": 1.0,
    "budget": "present",
    "min_weight": 0.5,
    "frequency_power": 0.0,
}
NORMS = {
    "measure": NORM,
    "scale": "relative",
    "power": 1.0,
    "lam": 1.0,
    "budget": "present",
    "frequency_power": 0.0,
}
# Measured to equal plain cross-entropy; kept because every table compares with the released
# setting.
RELEASED = {**NORMS, "scale": "released", "power": 2.0, "budget": "all"}

SCHEMES.register("gbw")(SchemeEntry(GradientBasedScheme, CLASS_GRADIENTS))
SCHEMES.register("gbw_balanced")(SchemeEntry(BalancedScheme, BALANCED))
SCHEMES.register("gbw_hindrance")(SchemeEntry(GradientBasedScheme, HINDRANCE))
SCHEMES.register("gbw_norm")(SchemeEntry(GradientBasedScheme, NORMS))
SCHEMES.register("gbw_released")(SchemeEntry(GradientBasedScheme, RELEASED))
