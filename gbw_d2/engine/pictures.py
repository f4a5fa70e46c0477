"""A picture panel of the first test images: image, ground truth, prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.class_tables import translated_segments
from gbw_d2.data.spec import DatasetSpec
from gbw_d2.label_spaces import Scoring
from gbw_d2.visualization import color_panoptic, color_semantic, panel, write_png

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm


class PicturePanel(DatasetEvaluator):
    """An evaluator that draws the first images of an evaluation and computes no metric.

    Args:
        spec: the test set, whose readers give the ground truth in class ids of ``scoring.space``.
        scoring: the mapping between the classes of network and test set.
        count: number of images to draw.
        image_format: ``"RGB"`` or ``"BGR"``, of the model's input.
        path: the PNG file.
    """

    def __init__(
        self, spec: DatasetSpec, scoring: Scoring, count: int, image_format: str, path: Path
    ) -> None:
        self.spec = spec
        self.scoring = scoring
        self.count = count
        self.image_format = image_format
        self.path = path
        self.rows: list[list[np.ndarray]] = []

    def reset(self) -> None:
        """Removes all images."""
        self.rows = []

    def process(
        self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]
    ) -> None:
        """Draws images until there are ``count`` of them."""
        for record, output in zip(inputs, outputs, strict=True):
            if len(self.rows) < self.count and comm.is_main_process():
                self.rows.append(self._row(record, output))

    def _row(self, record: Mapping[str, Any], output: Mapping[str, Any]) -> list[np.ndarray]:
        image = record[keys.IMAGE].permute(1, 2, 0).numpy()
        if self.image_format == "BGR":
            image = image[..., ::-1]
        space, table = self.scoring.space, self.scoring.prediction
        if keys.PANOPTIC_SEG in output and self.spec.read_panoptic is not None:
            truth = color_panoptic(*self.spec.read_panoptic(dict(record)), space)
            segment_map, segments = output[keys.PANOPTIC_SEG]
            found = translated_segments(
                segment_map.cpu().numpy(),
                segments,
                table,
                space.is_thing,
                self.scoring.network.is_thing,
            )
            return [image, truth, color_panoptic(*found, space)]
        assert self.spec.read_semantic is not None
        classes = output[keys.SEM_SEG].argmax(dim=0).cpu().numpy().astype(np.uint8)
        truth = color_semantic(self.spec.read_semantic(dict(record)), space)
        return [image, truth, color_semantic(table[classes], space)]

    def evaluate(self) -> dict[str, float]:
        """Writes the panel; returns no metric."""
        if comm.is_main_process() and self.rows:
            write_png(self.path, panel(self.rows, ["image", "ground truth", "prediction"]))
        return {}
