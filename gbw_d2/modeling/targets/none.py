"""The targets of purely semantic networks, which need no entries beside the class map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor


def no_targets(
    class_map: np.ndarray,
    segment_map: np.ndarray | None,
    segments_info: Sequence[Mapping[str, Any]],
) -> dict[str, Tensor]:
    """See :class:`gbw_d2.modeling.protocol.TargetGenerator`; returns nothing."""
    return {}
