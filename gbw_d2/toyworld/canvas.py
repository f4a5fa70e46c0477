"""The canvas: a pinhole camera above a flat street, an image and its segment map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from gbw_d2.cityscapes_classes import CLASSES

# The SYNTHIA id and Cityscapes id of each label name.
RAW_IDS: dict[str, tuple[int, int]] = {c.name: (c.synthia_id, c.cityscapes_id) for c in CLASSES}
RAW_IDS |= {
    "unlabeled": (0, 0),
    "ego vehicle": (0, 1),
    "out of roi": (0, 3),
    "static": (0, 4),
    # Cityscapes labels paint as road; SYNTHIA gives it a class that is ignored everywhere.
    "lane marking": (22, 7),
    "parking": (13, 9),
    "road work": (14, 5),
}

# Sub-pixel bits of OpenCV's fixed-point coordinates.
_SHIFT = 3


@dataclass(frozen=True)
class Segment:
    """One entry of the segment table: label name, depth in metres, instance or crowd or neither."""

    label: str
    depth: float
    is_instance: bool = False
    is_crowd: bool = False


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera; x to the right, y up from the ground, z forward, in metres.

    Args:
        focal: focal length in canvas pixels.
        center: column of the vanishing point.
        horizon: row of the vanishing point.
        height: height of the camera above the ground in metres.
    """

    focal: float
    center: float
    horizon: float
    height: float

    def project(self, points: Sequence[tuple[float, float, float]] | np.ndarray) -> np.ndarray:
        """Projects world points (N, 3) to canvas pixels (N, 2), column first."""
        xyz = np.asarray(points, dtype=float)
        scale = self.focal / xyz[:, 2]
        return np.stack(
            (self.center + scale * xyz[:, 0], self.horizon + scale * (self.height - xyz[:, 1])),
            axis=1,
        )

    def scale(self, z: float) -> float:
        """Returns canvas pixels per metre at depth z."""
        return self.focal / z


class Canvas:
    """An image (rows, columns, 3) uint8 RGB, and the numbers of the visible segments."""

    def __init__(self, rows: int, columns: int) -> None:
        self.color = np.zeros((rows, columns, 3), dtype=np.uint8)
        self.segments = np.zeros((rows, columns), dtype=np.int32)
        self.table: list[Segment] = [Segment("unlabeled", 200.0)]

    def add(self, segment: Segment) -> int:
        """Adds a segment and returns its number, with which it is painted."""
        self.table.append(segment)
        return len(self.table) - 1

    def polygons(
        self,
        shapes: Sequence[np.ndarray],
        color: np.ndarray | None,
        segment: int | None = None,
    ) -> None:
        """Fills polygons, each (N, 2); None keeps the colours or the segments."""
        if not len(shapes):
            return
        fixed = [
            np.round(np.clip(s, -6000.0, 6000.0) * (1 << _SHIFT)).astype(np.int32) for s in shapes
        ]
        if color is not None:
            cv2.fillPoly(self.color, fixed, color.tolist(), shift=_SHIFT)
        if segment is not None:
            cv2.fillPoly(self.segments, fixed, segment, shift=_SHIFT)

    def polygon(
        self, shape: np.ndarray, color: np.ndarray | None, segment: int | None = None
    ) -> None:
        """Fills one polygon (N, 2)."""
        self.polygons([shape], color, segment)

    def hull(
        self, points: np.ndarray, color: np.ndarray | None, segment: int | None = None
    ) -> None:
        """Fills the convex hull of points (N, 2)."""
        shape = cv2.convexHull(points.astype(np.float32))[:, 0]
        self.polygons([shape], color, segment)

    def line(
        self,
        start: np.ndarray,
        end: np.ndarray,
        width: float,
        color: np.ndarray | None,
        segment: int | None = None,
    ) -> None:
        """Fills a bar of a width in pixels from start to end, each (2,)."""
        along = end - start
        normal = np.array((-along[1], along[0])) / max(float(np.hypot(*along)), 1e-6) * width / 2
        self.polygon(
            np.stack((start + normal, end + normal, end - normal, start - normal)), color, segment
        )

    def disc(
        self,
        center: np.ndarray,
        radii: tuple[float, float],
        color: np.ndarray | None,
        segment: int | None = None,
    ) -> None:
        """Fills an upright ellipse around center (2,), radii (horizontal, vertical) in pixels."""
        self.polygon(ellipse(center, radii), color, segment)

    def shade(self, shape: np.ndarray, factor: float) -> None:
        """Multiplies the colour inside a convex polygon (N, 2), as a cast shadow does."""
        low = np.maximum(np.floor(shape.min(axis=0)).astype(int), 0)
        high = np.minimum(np.ceil(shape.max(axis=0)).astype(int) + 1, self.segments.shape[::-1])
        if (high <= low).any():
            return
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), dtype=np.uint8)
        cv2.fillPoly(
            mask, [np.round((shape - low) * (1 << _SHIFT)).astype(np.int32)], 1, shift=_SHIFT
        )
        region = self.color[low[1] : high[1], low[0] : high[0]]
        inside = mask.astype(bool)
        region[inside] = (region[inside] * factor).astype(np.uint8)


_CIRCLE = np.stack(
    [f(np.linspace(0.0, 2.0 * np.pi, 20, endpoint=False)) for f in (np.cos, np.sin)], axis=1
)


def ellipse(center: np.ndarray, radii: tuple[float, float]) -> np.ndarray:
    """Returns an ellipse as a polygon (20, 2)."""
    return np.asarray(center) + _CIRCLE * np.asarray(radii)
