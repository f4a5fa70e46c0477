"""Random generators that are determined by a seed and a key."""

from __future__ import annotations

import zlib

import numpy as np


def keyed_rng(seed: int, *key: int | str) -> np.random.Generator:
    """Returns the generator of a seed and a key; generators of different keys are independent."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return np.random.default_rng([seed, *words])
