"""Class weights given by the user, one number per class, the same at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from gbw_d2.settings import setting
from gbw_d2.weighting.scheme import SCHEMES, ConstantScheme, SchemeEntry
from gbw_d2.weighting.settings import SchemeSettings


@dataclass(frozen=True)
class FixedSettings(SchemeSettings):
    """Settings of the scheme below."""

    class_weights: tuple[float, ...] = setting(
        (), "One number >= 0 per class id, in proportion to the weights.", per_class=True
    )


class FixedScheme(ConstantScheme):
    """Weights proportional to the setting ``class_weights``, scaled to the mean 1.

    Raises:
        ValueError: the setting is not one finite number >= 0 per class, or holds none above 0.
    """

    Settings = FixedSettings
    settings: FixedSettings

    def set_up(self, class_counts: Tensor | None) -> None:
        given = list(self.settings.class_weights)
        usable = all(isinstance(w, Real) and math.isfinite(w) and w >= 0 for w in given)
        if len(given) != self.num_classes or not usable or not sum(given) > 0:
            raise ValueError(
                f"class_weights is {given}; scheme '{self.name}' expects {self.num_classes} finite "
                "numbers >= 0, one per class id, not all 0"
            )
        self.keep(torch.tensor(given, dtype=torch.float) * (self.num_classes / sum(given)))


SCHEMES.register("fixed")(SchemeEntry(FixedScheme))
