"""Gradient-based class weighting: one scheme under five names that differ in their defaults."""

from gbw_d2.weighting.gradient_scheme import (
    ADJUSTED_CLASS_GRADIENTS,
    CLASS_GRADIENTS,
    GradientBasedScheme,
)
from gbw_d2.weighting.scheme import SCHEMES, SchemeEntry

SCHEMES.register("gbw")(SchemeEntry(GradientBasedScheme, ADJUSTED_CLASS_GRADIENTS))
# The same weights without the adjustments: on the source alone, fading with the gradients.
SCHEMES.register("gbw_fading")(
    SchemeEntry(GradientBasedScheme, {**CLASS_GRADIENTS, "scale": "initial", "acts_on": "source"})
)
SCHEMES.register("gbw_hindrance")(
    SchemeEntry(
        GradientBasedScheme,
        {
            "measure": "hindrance",
            "scale": "relative",
            "power": 0.5,
            "lam": 1.0,
            "budget": "present",
            "min_weight": 0.5,
            "frequency_power": 0.0,
        },
    )
)
SCHEMES.register("gbw_norm")(
    SchemeEntry(
        GradientBasedScheme,
        {
            "measure": "norm",
            "scale": "relative",
            "power": 1.0,
            "lam": 1.0,
            "budget": "present",
            "frequency_power": 0.0,
        },
    )
)
# To three digits plain cross-entropy, and meant to be: the released setting is a row in each table.
SCHEMES.register("gbw_released")(
    SchemeEntry(
        GradientBasedScheme,
        {
            "measure": "norm",
            "scale": "released",
            "power": 2.0,
            "lam": 1.0,
            "budget": "all",
            "frequency_power": 0.0,
        },
    )
)
