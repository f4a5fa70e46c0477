"""Colours for classes that have none: such that neighbours in the list differ most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Color = tuple[int, int, int]


def distinct_colors(count: int, taken: Sequence[Color] = ()) -> list[Color]:
    """Returns colours far from each other, from black (void) and from white (outlines).

    Each next one is the colour of a grid that is farthest from all before it, so that the first
    ones, and neighbours in the list, differ most.

    Args:
        count: how many.
        taken: colours that are in use.
    """
    steps = np.linspace(0, 255, 9).round()
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    # Green looks brighter than red, and red than blue.
    weight = np.sqrt([0.30, 0.59, 0.11])
    nearest = np.full(len(grid), np.inf)
    for color in [(0, 0, 0), (255, 255, 255), *taken]:
        nearest = np.minimum(nearest, (((grid - color) * weight) ** 2).sum(axis=1))
    found: list[Color] = []
    for _ in range(count):
        best = grid[int(nearest.argmax())]
        nearest = np.minimum(nearest, (((grid - best) * weight) ** 2).sum(axis=1))
        red, green, blue = (int(v) for v in best)
        found.append((red, green, blue))
    return found
