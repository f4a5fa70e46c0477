"""Predicted panoptic maps as files in COCO panoptic format: a PNG per image and one JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gbw_d2.class_tables import colors_of_ids
from gbw_d2.errors import UserError
from gbw_d2.files.atomic import write_atomically
from gbw_d2.label_spaces import LabelSpace


class PanopticFiles:
    """Writes each map as it is predicted, and the JSON file at the end.

    ``panoptic/<image id>.png`` holds R + 256 G + 65536 B = segment id, 0 = void; ``panoptic.json``
    lists the segments. Classes have their raw ids, so that ``panopticapi`` and Cityscapes'
    ``evalPanopticSemanticLabeling`` can read both files; classes without a raw id have their class
    id.

    Args:
        folder: output folder, made if it is missing.
        space: the classes of the segments.
    """

    def __init__(self, folder: str | Path, space: LabelSpace) -> None:
        self.folder = Path(folder)
        self._categories = [
            {
                "id": i if c.raw_id is None else c.raw_id,
                "name": c.name,
                "isthing": int(c.is_thing),
                "color": list(c.color),
            }
            for i, c in enumerate(space.classes)
        ]

    def add(
        self, image_id: str, segment_map: np.ndarray, segments: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Writes one PNG file.

        Args:
            image_id: used as the file's name.
            segment_map: (H, W) integer segment ids, 0 = void.
            segments: dictionaries with ``id``, ``category_id`` (class id), and ``score`` if known.

        Returns:
            The image's entry of the JSON file.

        Raises:
            UserError: the image id is no valid file name.
            ValueError: a segment id does not fit into three bytes.
        """
        if not image_id or Path(image_id).name != image_id:
            raise UserError(
                f"image id '{image_id}' cannot be a file's name, so its prediction cannot be saved;"
                " give the dataset's records ids without '/'"
            )
        done, data = cv2.imencode(".png", colors_of_ids(segment_map))
        if not done:
            raise ValueError(f"OpenCV cannot encode a map of shape {segment_map.shape} as PNG")
        name = f"{image_id}.png"
        write_atomically(self.folder / "panoptic" / name, data.tobytes())
        ids, areas = np.unique(segment_map, return_counts=True)
        area_of = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        rows = []
        for segment in segments:
            row: dict[str, Any] = {
                "id": int(segment["id"]),
                "category_id": self._categories[segment["category_id"]]["id"],
                "area": area_of.get(int(segment["id"]), 0),
                "iscrowd": 0,
            }
            rows.append(row | {k: float(segment[k]) for k in ("score",) if k in segment})
        return {"image_id": image_id, "file_name": name, "segments_info": rows}

    def finish(self, annotations: Iterable[Mapping[str, Any]]) -> None:
        """Writes the JSON file.

        Args:
            annotations: the results of :meth:`add` of all processes.
        """
        rows = sorted(annotations, key=lambda row: row["image_id"])
        content = {"annotations": rows, "categories": self._categories}
        write_atomically(self.folder / "panoptic.json", json.dumps(content).encode())
