"""Images of labels and predictions as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gbw_d2.files.atomic import write_atomically
from gbw_d2.label_spaces import IGNORE_LABEL, LabelSpace

# Colours of plots that are distinguishable with colour blindness (Okabe and Ito).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")


def color_semantic(class_ids: np.ndarray, space: LabelSpace) -> np.ndarray:
    """Colours a map of class ids (H, W) uint8 with its label space's palette; ignore is black.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return space.colors[class_ids]


def color_panoptic(
    segment_map: np.ndarray, segments_info: Sequence[dict[str, Any]], space: LabelSpace
) -> np.ndarray:
    """Colours a panoptic map: the class's colour, shaded per thing, with white outlines of things.

    Args:
        segment_map: (H, W) integer segment ids, 0 = void (black).
        segments_info: dictionaries with ``id`` and ``category_id`` (class id).
        space: the classes.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    known = sorted((s["id"], s["category_id"]) for s in segments_info)
    # The first row is void. np.unique is avoided, because it would sort all pixels.
    ids = np.array([0, *(i for i, _ in known)], dtype=np.int64)
    colors = np.zeros((len(ids), 3), dtype=np.uint8)
    things = np.zeros(len(ids), dtype=bool)
    for row, (segment_id, class_id) in enumerate(known, start=1):
        if class_id == IGNORE_LABEL:
            continue
        kind = space.classes[class_id]
        shade = 0.75 + 0.5 * ((segment_id * 0.618) % 1) if kind.is_thing else 1.0
        colors[row] = np.clip(np.array(kind.color) * shade, 0, 255)
        things[row] = kind.is_thing
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
    """Overlays colours on an image, which is unchanged where they are black (ignore, void).

    Args:
        image: (H, W, 3) uint8 RGB.
        colors: (H, W, 3) uint8 RGB, the result of :func:`color_semantic` or :func:`color_panoptic`.
        opacity: 0 (image only) .. 1 (colours only).

    Returns:
        (H, W, 3) uint8 RGB.
    """
    mixed = cv2.addWeighted(colors, opacity, image, 1 - opacity, 0)
    return np.where(colors.any(axis=2, keepdims=True), mixed, image)


def with_legend(
    picture: np.ndarray, entries: Sequence[tuple[str, tuple[int, int, int]]]
) -> np.ndarray:
    """Adds a legend of coloured squares with names below an image.

    Args:
        picture: (H, W, 3) uint8 RGB.
        entries: name and RGB colour of each square.

    Returns:
        (H + h, W, 3) uint8 RGB; h depends on W and the names only.
    """
    line = round(40 * max(0.4, picture.shape[1] / 2400))
    # OpenCV's fonts have ASCII characters only.
    font = ImageFont.truetype(_font_file(), round(0.7 * line))
    cell = max((round(font.getlength(name)) for name, _ in entries), default=0) + 5 * line // 2
    columns = max(1, picture.shape[1] // cell)
    rows = -(-len(entries) // columns)
    strip = Image.new("RGB", (picture.shape[1], rows * line), (255, 255, 255))
    pen = ImageDraw.Draw(strip)
    gap = line // 6
    for index, (name, color) in enumerate(entries):
        top, left = index // columns * line, index % columns * cell
        corner = (left + line - gap - 1, top + line - gap - 1)
        pen.rectangle(((left + gap, top + gap), corner), fill=tuple(color))
        pen.text((left + line + gap, top + line // 2), name, (0, 0, 0), font, anchor="lm")
    return np.vstack([picture, np.asarray(strip)])


@cache
def _font_file() -> str:
    """Returns the file of Matplotlib's font, which covers many scripts."""
    from matplotlib.font_manager import findfont

    return findfont("DejaVu Sans")


def panel(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    max_width: int = 512,
    min_width: int = 384,
) -> np.ndarray:
    """Arranges images as a grid with titles.

    Args:
        rows: one list of RGB images per row; all images of a row have the same size.
        titles: one per column.
        max_width: wider images are reduced to this width, pixels.
        min_width: narrower images are enlarged to this width, pixels.

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
    """Writes an image atomically.

    Args:
        path: the file; its folder is made if it is missing.
        picture: (H, W, 3) RGB, or (H, W) ids; uint8.

    Raises:
        OSError: the file cannot be written.
    """
    good, data = cv2.imencode(".png", picture if picture.ndim == 2 else picture[..., ::-1])
    if not good:
        raise OSError(f"OpenCV cannot encode a picture of shape {picture.shape} as PNG")
    write_atomically(path, data.tobytes())
