"""SegMix: pastes half of a source image's segments onto a target image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.ops.segments import segment_attributes


def segment_mask(
    segment_map: np.ndarray, segments_info: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> np.ndarray:
    """Chooses ceil(n / 2) of the n visible segments and returns the mask of their pixels.

    Martinovic et al., MC-PanDA, ECCV 2024, section 3.4: segments instead of classes, both things
    and stuff. Crowds and void are no segments.

    Args:
        segment_map: (H, W) segment ids, 0 = void.
        segments_info: COCO dicts with ``id``, ``category_id`` (255 = not a class) and ``iscrowd``.
        rng: the only source of randomness.

    Returns:
        (H, W) bool.
    """
    numbers, categories, crowds = segment_attributes(segment_map, segments_info)
    visible = np.bincount(numbers.ravel(), minlength=len(categories)) > 0
    able = np.flatnonzero(visible & (categories != IGNORE_LABEL) & ~crowds)
    chosen = np.zeros(len(categories), dtype=bool)
    chosen[rng.permutation(able)[: (len(able) + 1) // 2]] = True
    return chosen[numbers]
