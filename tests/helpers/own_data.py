"""Writes small datasets with classes of their own for tests, in several formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from gbw_d2.class_tables import colors_of_ids

SIZE = (48, 64)


def class_names(count: int) -> list[str]:
    """Names with spaces, upper case and letters that are not Latin."""
    odd = ["Road Surface", "зебра", "自転車", "Überweg, naß"]
    return [*odd, *(f"Class {i}" for i in range(len(odd), count))][:count]


def things_of(count: int) -> list[str]:
    """Every third class is a thing."""
    return class_names(count)[1::3]


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws an image, class ids (255 = void) and instance numbers (0 = none)."""
    rng = np.random.default_rng(seed)
    # Image i begins with the class after the last one of the previous image, so all classes occur.
    order = (np.arange(48) + 48 * seed) % count
    classes = order.reshape(6, 8).repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
    instances = np.arange(1, 49).reshape(6, 8).repeat(8, axis=0).repeat(8, axis=1)
    classes[:2] = 255
    shade = (classes.astype(int) * 37) % 256
    image = np.stack([shade, 255 - shade, (shade * 3) % 256], axis=2)
    image = np.clip(image + rng.integers(-9, 9, image.shape), 0, 255).astype(np.uint8)
    return image, classes, instances.astype(np.uint16)


def write_png(path: Path, array: np.ndarray) -> None:
    """Writes an array as PNG, channels in OpenCV's order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", array)[1].tobytes())


def write_own_data(root: Path, count: int, images: int = 6, **more: Any) -> Path:
    """Writes data of ``count`` classes with instances; returns data.yaml.

    Labels have 16 bits and values of 300 and more, so that no 8 bits would do; void is 65535.
    """
    for seed in range(images):
        image, classes, instances = draw(count, seed)
        values = np.where(classes == 255, 65535, classes.astype(np.uint16) + 300)
        write_png(root / f"images/{seed}.png", image)
        write_png(root / f"labels/{seed}.png", values.astype(np.uint16))
        write_png(root / f"instances/{seed}.png", instances)
    labelled = {"images": "images", "labels": "labels", "instances": "instances"}
    content = {
        "label_space": "own",
        "classes": {n: 300 + i for i, n in enumerate(class_names(count))} | {"void": 65535},
        "things": things_of(count),
        "subsets": {"first": class_names(count)[:2]},
        "ignore_rows": {"top": 0.05},
        "splits": {"source": labelled, "target": {"images": "images"}, "val": labelled},
        **more,
    }
    path = root / "data.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def write_coco(root: Path, count: int, images: int = 3, text_ids: bool = False) -> dict[str, Any]:
    """Writes the same data as COCO panoptic: category ids with gaps, segment ids of 24 bits.

    Returns:
        The JSON's content; the file is ``root/panoptic.json``, the PNG files are in ``root/png``.
    """
    content: dict[str, Any] = {
        "categories": [
            {"id": 7 * i + 3, "name": n, "isthing": int(n in things_of(count))}
            for i, n in enumerate(class_names(count))
        ],
        "images": [],
        "annotations": [],
    }
    for seed in range(images):
        image, classes, instances = draw(count, seed)
        write_png(root / f"images/photo_{seed}.png", image)
        number = f"image {seed}" if text_ids else 1000 + seed
        things = np.isin(classes, np.arange(count)[1::3])
        ids = np.where(things, 100_000 + 997 * instances.astype(np.int64), 1 + classes)
        ids[classes == 255] = 0
        segments = []
        for segment in np.unique(ids[ids > 0]).tolist():
            here = ids == segment
            class_id = int(classes[here][0])
            crowd = int(segment == 100_000 + 997 * 48)
            row = {"id": segment, "category_id": 7 * class_id + 3, "area": int(here.sum())}
            segments.append({**row, "iscrowd": crowd})
        write_png(root / f"png/{seed:012d}.png", colors_of_ids(ids))
        content["images"].append({"id": number, "file_name": f"photo_{seed}.png"})
        entry = {"image_id": number, "file_name": f"{seed:012d}.png", "segments_info": segments}
        content["annotations"].append(entry)
    (root / "panoptic.json").write_text(json.dumps(content))
    return content
