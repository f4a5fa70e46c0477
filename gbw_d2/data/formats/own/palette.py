"""Default colours of classes, chosen so that neighbours in the list differ most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Color = tuple[int, int, int]


def distinct_colors(count: int, taken: Sequence[Color] = ()) -> list[Color]:
    """Returns colours that differ from each other, from black (void) and from white (outlines).

    Each colour is the one of a grid that is farthest from all previous ones, so that the first
    colours, and neighbours in the list, differ most.

    Args:
        count: number of colours.
        taken: colours that are already in use.
    """
    steps = np.linspace(0, 255, 9).round()
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    # Green appears brighter than red, and red brighter than blue.
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
