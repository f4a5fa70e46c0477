"""No weighting: every class weighs 1."""

from __future__ import annotations

import torch
from torch import Tensor

from gbw_d2.weighting.scheme import SCHEMES, ConstantScheme, SchemeEntry


class UniformScheme(ConstantScheme):
    """Weight 1 for every class: plain cross-entropy through the same code as every other scheme."""

    def set_up(self, class_counts: Tensor | None) -> None:
        self.keep(torch.ones(self.num_classes))


SCHEMES.register("none")(SchemeEntry(UniformScheme))
