"""Writes predictions: overlays, PNG files of ids, and a JSON file in COCO panoptic format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gbw_d2 import keys
from gbw_d2.class_tables import colors_of_ids
from gbw_d2.errors import UserError
from gbw_d2.files.atomic import replacing, write_atomically
from gbw_d2.label_spaces import LabelSpace
from gbw_d2.visualization import color_panoptic, color_semantic, overlay, with_legend, write_png


class ResultWriter:
    """Writes predictions to a folder, each file atomically.

    ``semantic/NAME.png`` holds class ids (8 bit): Cityscapes' train ids for a network with classes
    of Cityscapes, else those of the label space. For a panoptic network ``panoptic/NAME.png`` holds
    segment ids as R + 256 G + 65536 B, 0 = void, and ``panoptic.json`` their classes; for a
    semantic one ``semantic.json`` lists the classes of each image.

    Args:
        folder: output folder.
        label_space: classes of the network.
        opacity: opacity of the colours over the image, 0..1.
    """

    def __init__(self, folder: Path, label_space: LabelSpace, opacity: float = 0.6) -> None:
        if not 0 <= opacity <= 1:
            raise UserError(f"opacity is {opacity}; expected 0 to 1")
        self.folder = folder
        self.label_space = label_space
        self.opacity = opacity
        self.images: list[dict[str, Any]] = []
        self.annotations: dict[str, list[dict[str, Any]]] = {}

    def add(
        self, name: str, image: np.ndarray, result: Mapping[str, Any], origin: Mapping[str, Any]
    ) -> np.ndarray:
        """Writes the id maps of an image and keeps its segments for :meth:`write_json`.

        Args:
            name: name of the files, without suffix, in the folder of their kind.
            image: (H, W, 3) uint8 RGB.
            result: the result of :func:`gbw_d2.inference.predict.predict`.
            origin: entries for the image in the JSON file: ``file_name``, ``frame``.

        Returns:
            The overlay with its legend, uint8 RGB, which is not written.
        """
        space, table = self.label_space, self.label_space.to_family
        classes = result[keys.SEM_SEG].argmax(dim=0).cpu().numpy()
        write_png(self.folder / "semantic" / f"{name}.png", table[classes])
        kind, segments = "semantic", self._classes_of(classes)
        ids, colorize = classes, lambda ids, _: color_semantic(ids, space)
        if keys.PANOPTIC_SEG in result:
            segment_map, segments = result[keys.PANOPTIC_SEG]
            kind, ids = "panoptic", segment_map.cpu().numpy()
            colorize = lambda ids, segments: color_panoptic(ids, segments, space)  # noqa: E731
            write_png(self.folder / "panoptic" / f"{name}.png", colors_of_ids(ids)[..., ::-1])
        number = len(self.images) + 1
        height, width = classes.shape
        written = [{**s, "category_id": int(table[s["category_id"]])} for s in segments]
        self.images.append({"id": number, "height": height, "width": width, **origin})
        self.annotations.setdefault(kind, []).append(
            {"image_id": number, "file_name": f"{name}.png", "segments_info": written}
        )
        factor = enlargement(width)
        drawn = colorize(ids.repeat(factor, axis=0).repeat(factor, axis=1), segments)
        large = cv2.resize(image, (width * factor, height * factor), interpolation=cv2.INTER_CUBIC)
        picture = overlay(large, drawn, self.opacity)
        return with_legend(picture, [(c.name, c.color) for c in self.label_space.classes])

    def _classes_of(self, classes: np.ndarray) -> list[dict[str, Any]]:
        areas = np.bincount(classes.ravel(), minlength=256)
        return [
            {"id": int(self.label_space.to_family[i]), "category_id": i, "area": int(areas[i])}
            for i in range(self.label_space.num_classes)
            if areas[i]
        ]

    def write_overlay(self, name: str, picture: np.ndarray) -> Path:
        """Writes ``overlays/NAME.png``."""
        path = self.folder / "overlays" / f"{name}.png"
        write_png(path, picture)
        return path

    def overlay_video(self, name: str, fps: float) -> VideoWriter:
        """Returns the writer of ``overlays/NAME.mp4``, a context manager."""
        return VideoWriter(self.folder / "overlays" / f"{name}.mp4", fps)

    def write_json(self) -> list[Path]:
        """Writes panoptic.json or semantic.json over all images that were added."""
        table = self.label_space.to_family
        categories = [
            {
                "id": int(table[i]),
                "name": c.name,
                "isthing": int(c.is_thing),
                "color": list(c.color),
            }
            for i, c in enumerate(self.label_space.classes)
        ]
        written = []
        for kind, entries in self.annotations.items():
            path = self.folder / f"{kind}.json"
            content = {"images": self.images, "annotations": entries, "categories": categories}
            write_atomically(path, json.dumps(content))
            written.append(path)
        return written


class VideoWriter:
    """Writes ``NAME.mp4``, under a temporary name until it is complete.

    To be used as a context manager; on an error the file is removed. OpenCV does not report frames
    that cannot be written, for instance on a full disk, so the frames are counted at the end.

    Args:
        path: the file.
        fps: frames per second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.fps = fps
        self._file = ExitStack()
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._frames = 0

    def __enter__(self) -> VideoWriter:
        return self

    def add(self, picture: np.ndarray) -> None:
        """Appends a frame (H, W, 3) uint8 RGB; all have one size.

        Raises:
            UserError: OpenCV cannot write videos here.
        """
        # Codecs need even sides.
        picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
        if self._writer is None:
            self._size = (picture.shape[1], picture.shape[0])
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self._temporary = self._file.enter_context(replacing(self.path, ".part.mp4"))
            self._writer = cv2.VideoWriter(str(self._temporary), code, self.fps, self._size)
            if not self._writer.isOpened():
                raise UserError(f"OpenCV cannot write the video '{self.path}' (no mp4v encoder)")
        if self._size != (picture.shape[1], picture.shape[0]):
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(np.ascontiguousarray(picture[..., ::-1]))
        self._frames += 1

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if self._writer is not None:
            self._writer.release()
        if self._writer is None or kind is not None:
            self._file.__exit__(kind, *rest)
            return
        with self._file:
            self._count_frames()

    def _count_frames(self) -> None:
        capture = cv2.VideoCapture(str(self._temporary))
        found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if found < self._frames:
            raise UserError(
                f"video '{self.path}': {found} of {self._frames} frames could be written, so it is "
                "left out; make room on the disk"
            )


def enlargement(width: int, least: int = 640) -> int:
    """Returns the integer factor by which a small image is enlarged for display."""
    return max(1, round(least / width))
