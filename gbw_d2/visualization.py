"""Pictures of labels and predictions; arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gbw_d2.label_spaces import CLASSES, IGNORE_LABEL

# Of runs and arms in plots: also people who see few colours can tell them apart (Okabe and Ito).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")

_PALETTE = np.zeros((256, 3), dtype=np.uint8)
_PALETTE[: len(CLASSES)] = [c.color for c in CLASSES]


def color_semantic(train_ids: np.ndarray) -> np.ndarray:
    """Colours a map of train ids (H, W) uint8 with Cityscapes' palette; ignore is black.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return _PALETTE[train_ids]


def color_panoptic(segment_map: np.ndarray, segments_info: Sequence[dict[str, Any]]) -> np.ndarray:
    """Colours a panoptic map: the class's colour, shaded per thing, with white outlines of things.

    Args:
        segment_map: (H, W) integer segment ids, 0 = void (black).
        segments_info: dictionaries with ``id`` and ``category_id`` (train id).

    Returns:
        (H, W, 3) uint8 RGB.
    """
    known = sorted((s["id"], s["category_id"]) for s in segments_info)
    # The first row is void; np.unique over the map would sort all of its pixels.
    ids = np.array([0, *(i for i, _ in known)], dtype=np.int64)
    colors = np.zeros((len(ids), 3), dtype=np.uint8)
    things = np.zeros(len(ids), dtype=bool)
    for row, (segment_id, train_id) in enumerate(known, start=1):
        if train_id == IGNORE_LABEL:
            continue
        shade = 0.75 + 0.5 * ((segment_id * 0.618) % 1) if CLASSES[train_id].is_thing else 1.0
        colors[row] = np.clip(np.array(CLASSES[train_id].color) * shade, 0, 255)
        things[row] = CLASSES[train_id].is_thing
    index = np.searchsorted(ids[1:], segment_map) + 1
    index[index == len(ids)] = 0
    index[ids[index] != segment_map] = 0
    picture = colors[index]
    edge = np.zeros(segment_map.shape, dtype=bool)
    edge[:, 1:] |= segment_map[:, 1:] != segment_map[:, :-1]
    edge[1:] |= segment_map[1:] != segment_map[:-1]
    picture[edge & things[index]] = 255
    return picture


def overlay(image: np.ndarray, colors: np.ndarray, opacity: float) -> np.ndarray:
    """Lays colours over an image; where they are black (ignore, void) the image is left as it is.

    Args:
        image: (H, W, 3) uint8 RGB.
        colors: (H, W, 3) uint8 RGB, of :func:`color_semantic` or :func:`color_panoptic`.
        opacity: 0 (image only) .. 1 (colours only).

    Returns:
        (H, W, 3) uint8 RGB.
    """
    mixed = cv2.addWeighted(colors, opacity, image, 1 - opacity, 0)
    return np.where(colors.any(axis=2, keepdims=True), mixed, image)


def with_legend(
    picture: np.ndarray, entries: Sequence[tuple[str, tuple[int, int, int]]]
) -> np.ndarray:
    """Puts rows of coloured squares with names under a picture.

    Args:
        picture: (H, W, 3) uint8 RGB.
        entries: name and RGB colour of each square.

    Returns:
        (H + h, W, 3) uint8 RGB; h depends on W and the names alone.
    """
    size = max(0.4, picture.shape[1] / 2400)
    line = round(40 * size)
    font = cv2.FONT_HERSHEY_SIMPLEX
    widths = [cv2.getTextSize(name, font, size, 1)[0][0] for name, _ in entries]
    cell = max(widths, default=0) + 5 * line // 2
    columns = max(1, picture.shape[1] // cell)
    rows = -(-len(entries) // columns)
    strip = np.full((rows * line, picture.shape[1], 3), 255, dtype=np.uint8)
    for index, (name, color) in enumerate(entries):
        top, left = index // columns * line, index % columns * cell
        gap = line // 6
        strip[top + gap : top + line - gap, left + gap : left + line - gap] = color
        place = (left + line + gap, top + line - line // 3)
        cv2.putText(strip, name, place, font, size, (0, 0, 0), max(1, round(size)), cv2.LINE_AA)
    return np.vstack([picture, strip])


def panel(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    max_width: int = 512,
    min_width: int = 384,
) -> np.ndarray:
    """Lays pictures out as a titled grid.

    Args:
        rows: one list of RGB pictures per row; all of a row have one size.
        titles: one per column.
        max_width: wider pictures are shrunk to this many pixels.
        min_width: narrower pictures are enlarged to this many pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    gap, bar = 4, 24
    lines = []
    for row in rows:
        width = int(np.clip(row[0].shape[1], min_width, max_width))
        height = max(1, round(row[0].shape[0] * width / row[0].shape[1]))
        shown = [cv2.resize(p, (width, height), interpolation=cv2.INTER_NEAREST) for p in row]
        lines.append(np.hstack([np.pad(p, ((0, gap), (0, gap), (0, 0))) for p in shown]))
    widest = max(line.shape[1] for line in lines)
    lines = [np.pad(line, ((0, 0), (0, widest - line.shape[1]), (0, 0))) for line in lines]
    header = np.full((bar, widest, 3), 255, dtype=np.uint8)
    for column, title in enumerate(titles):
        place = (column * widest // len(titles) + 4, bar - 7)
        cv2.putText(header, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([header, *lines])


def write_png(path: str | Path, picture: np.ndarray) -> None:
    """Writes a picture, under a temporary name first.

    Args:
        path: the file; its folder is made where it is missing.
        picture: (H, W, 3) RGB, or (H, W) ids; uint8.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    good, data = cv2.imencode(".png", picture if picture.ndim == 2 else picture[..., ::-1])
    if not good:
        raise OSError(f"OpenCV cannot encode a picture of shape {picture.shape} as PNG")
    temporary = path.with_suffix(".png.tmp")
    try:
        temporary.write_bytes(data.tobytes())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
