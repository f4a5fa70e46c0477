"""The best and the worst test images of a run: image, truth, prediction, errors."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL

# Files of the evaluators. The first score of the first existing file ranks the images.
PER_IMAGE = ("panoptic_per_image.csv", "semantic_per_image.csv")
RIGHT, WRONG, UNKNOWN = (225, 225, 225), (200, 40, 40), (0, 0, 0)


@dataclass(frozen=True)
class Ranked:
    """A test image and its score.

    Args:
        file_name: of the image.
        score_name: such as ``mIoU_16``.
        score: 0..100.
    """

    file_name: str
    score_name: str
    score: float

    @property
    def words(self) -> str:
        """The name and the rounded score."""
        return f"{self.score_name} {self.score:.1f}"


@dataclass(frozen=True)
class Row:
    """Four pictures of one size, (H, W, 3) uint8 RGB."""

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    errors: np.ndarray


def rank_images(folder: Path) -> list[Ranked]:
    """Lists the test images of a run, worst first.

    Args:
        folder: the OUTPUT_DIR.

    Raises:
        UserError: the run was not evaluated.
    """
    path = next((folder / name for name in PER_IMAGE if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"no scores per image in {folder} ({', '.join(PER_IMAGE)})")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    scores = [name for name in (rows[0] if rows else {}) if name.startswith(("PQ", "mIoU"))]
    found = [
        Ranked(row["file_name"], scores[0], float(row[scores[0]]))
        for row in rows
        if scores and row[scores[0]]
    ]
    return sorted(found, key=lambda ranked: ranked.score)


def draw_rows(folder: Path, files: Sequence[str], device: str = "auto") -> list[Row]:
    """Predicts images of the first test set with the last checkpoint of a run and draws them.

    Args:
        folder: the OUTPUT_DIR, with config.yaml and a checkpoint.
        files: the images.
        device: as in ``tools/demo.py``.

    Raises:
        UserError: the dataset or the checkpoint does not exist any more.
    """
    # These imports take ten seconds, which runs without pictures should not wait for.
    from gbw_d2.catalog import get_dataset
    from gbw_d2.config import load_config
    from gbw_d2.engine.evaluation import meet_test_set
    from gbw_d2.inference.network import load_network, resolve_for
    from gbw_d2.keys import FILE_NAME

    cfg = load_config(str(folder / "config.yaml"))
    resolve_for(cfg, device)
    spec = get_dataset(cfg.DATASETS.TEST[0])
    met = meet_test_set(cfg, spec)
    spec = spec.translated(met.truth, met.space)
    records = {str(record[FILE_NAME]): record for record in spec.load()}
    gone = [file for file in files if file not in records]
    if gone:
        raise UserError(f"'{gone[0]}' is not an image of {spec.name} any more")
    model = load_network(cfg, str(folder), cfg.EVAL.WEIGHTS)
    return [_draw(cfg, spec, met, model, records[file]) for file in files]


def _draw(cfg: Any, spec: Any, met: Any, model: Any, record: dict[str, Any]) -> Row:
    from gbw_d2.inference.inputs import read_photo
    from gbw_d2.inference.predict import predict
    from gbw_d2.keys import FILE_NAME
    from gbw_d2.visualization import color_panoptic, color_semantic

    image = read_photo(Path(record[FILE_NAME]))
    shown = image if cfg.INPUT.FORMAT == "RGB" else image[..., ::-1]
    size = tuple(cfg.INPUT.TEST_SIZE) or image.shape[:2]
    result = predict(model, shown, size)
    truth = spec.read_semantic(record)
    classes = met.prediction[result["sem_seg"].argmax(0).cpu().numpy().astype(np.uint8)]
    pictures = [color_semantic(truth, met.space), color_semantic(classes, met.space)]
    if "panoptic_seg" in result and spec.read_panoptic is not None:
        from gbw_d2.class_tables import translated_segments

        segments, info = result["panoptic_seg"]
        found = translated_segments(
            segments.cpu().numpy(), info, met.prediction, met.space.is_thing, met.network.is_thing
        )
        pictures = [
            color_panoptic(*spec.read_panoptic(record), met.space),
            color_panoptic(*found, met.space),
        ]
    return Row(image, *pictures, error_map(classes, truth))


def error_map(classes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Colours pixels: right predictions grey, wrong ones red, and pixels without truth black.

    Args:
        classes: (H, W) predicted class ids.
        truth: (H, W) class ids, 255 = ignore.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    colors = np.array([RIGHT, WRONG, UNKNOWN], dtype=np.uint8)
    return colors[np.where(truth == IGNORE_LABEL, 2, (classes != truth).astype(int))]
