"""The inputs of RoI heads: feature maps, and the generators for sampling RoIs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gbw_d2.modeling.protocol import Features, Size


class DrawnFeatures(dict[str, Tensor]):
    """Feature maps by name, with the generators of the images that they are of."""

    draws: Sequence[np.random.Generator] | None = None


@dataclass(frozen=True)
class RoIInputs:
    """The inputs of RoI heads in training, which run only once there are targets."""

    pyramid: Features
    size: Size
    draws: Sequence[np.random.Generator] | None
