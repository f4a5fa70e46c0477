"""Pictures: colours by hand, layout, and files that are never half-written."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from gbw_d2.label_spaces import CITYSCAPES_19
from gbw_d2.visualization import (
    color_panoptic,
    color_semantic,
    overlay,
    panel,
    with_legend,
    write_png,
)


def test_semantic_colors() -> None:
    picture = color_semantic(np.array([[0, 10], [255, 13]], dtype=np.uint8), CITYSCAPES_19)
    assert picture.tolist() == [[[128, 64, 128], [70, 130, 180]], [[0, 0, 0], [0, 0, 142]]]


def test_panoptic_outlines_things_only() -> None:
    segments = np.ones((6, 6), dtype=np.int32)
    segments[:, 3:] = 2
    stuff = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 10}]
    assert not (color_panoptic(segments, stuff, CITYSCAPES_19) == 255).all(axis=2).any()
    things = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 13}]
    white = (color_panoptic(segments, things, CITYSCAPES_19) == 255).all(axis=2)
    assert white[:, 3].all() and white.sum() == 6
    # A segment that is not listed, and id 0, are void.
    assert not color_panoptic(np.zeros((2, 2), dtype=int), things, CITYSCAPES_19).any()


def test_panel_and_file(tmp_path: Path) -> None:
    picture = np.full((20, 40, 3), (250, 0, 0), dtype=np.uint8)
    grid = panel([[picture, picture], [picture, picture]], ["image", "prediction"])
    assert grid.shape == (24 + 2 * (192 + 4), 2 * (384 + 4), 3)
    write_png(tmp_path / "a" / "grid.png", grid)
    assert np.array_equal(cv2.imread(str(tmp_path / "a" / "grid.png"))[..., ::-1], grid)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["grid.png"]


def test_overlay_leaves_void_as_it_is() -> None:
    image = np.full((1, 2, 3), 100, dtype=np.uint8)
    colors = np.array([[[0, 0, 0], [200, 0, 50]]], dtype=np.uint8)
    assert overlay(image, colors, 0.75).tolist() == [[[100, 100, 100], [175, 25, 62]]]
    assert overlay(image, colors, 1.0)[0, 1].tolist() == [200, 0, 50]


def test_legend_shows_every_color_below_the_picture() -> None:
    entries = [(f"class {i}", (10 * i + 5, 200, 7)) for i in range(16)]
    for width in (30, 200, 900, 4000):
        picture = np.zeros((20, width, 3), dtype=np.uint8)
        drawn = with_legend(picture, entries)
        assert drawn.shape[1] == width and not drawn[:20].any()
        strip = drawn[20:].reshape(-1, 3)
        assert all((strip == color).all(axis=1).any() for _, color in entries)


def test_ids_are_written_as_they_are(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_png(tmp_path / "ids.png", ids)
    assert np.array_equal(cv2.imread(str(tmp_path / "ids.png"), cv2.IMREAD_UNCHANGED), ids)
