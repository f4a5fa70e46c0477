"""PQ of files in COCO panoptic format, computed on all cores without a network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gbw_d2.data.formats.coco_panoptic import check_annotation, is_whole
from gbw_d2.data.formats.files import few, read_ids
from gbw_d2.errors import UserError
from gbw_d2.evaluation.panoptic_quality import PanopticQuality
from gbw_d2.plain_files import read_json

_REMEDY = "write it anew"


def score_files(truth: Path, prediction: Path, workers: int | None = None) -> PanopticQuality:
    """Computes PQ of predicted panoptic maps, as ``panopticapi.evaluation`` does.

    Threads share the images, because decoding and counting release Python's global lock.

    Args:
        truth: JSON file of the ground truth; its PNG files are in the folder of the same name
            without suffix.
        prediction: JSON file of the predictions, likewise; its categories are not read.
        workers: threads; None = one per core.

    Returns:
        The accumulated counts.

    Raises:
        UserError: a file cannot be read, an image has no prediction, or a map and its segments
            differ.
    """
    content, guesses = _read(truth), _read(prediction)
    found = {entry["image_id"]: entry for entry in guesses["annotations"]}
    lacking = [str(e["image_id"]) for e in content["annotations"] if e["image_id"] not in found]
    if lacking:
        raise UserError(
            f"'{prediction}' has no prediction for {len(lacking)} images: {few(lacking)}"
        )
    try:
        _check_categories(content["categories"])
        quality = PanopticQuality(content["categories"])
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"'{truth}' has other categories than COCO's ({error!r})") from error

    def score(entry: Mapping[str, Any]) -> None:
        guess = found[entry["image_id"]]
        path = prediction.with_suffix("") / guess["file_name"]
        maps = (
            read_ids(path, _REMEDY),
            read_ids(truth.with_suffix("") / entry["file_name"], _REMEDY),
        )
        counted = PanopticQuality(content["categories"])
        try:
            counted.update(maps[0], guess["segments_info"], maps[1], entry["segments_info"])
        except ValueError as error:
            raise UserError(f"'{path}': {error}") from error
        states.append(counted.state)

    states: list[Any] = []
    with ThreadPoolExecutor(workers or _cores()) as pool:
        for _ in pool.map(score, content["annotations"]):
            pass
    for state in states:
        quality.merge(state)
    return quality


def _check_categories(categories: Any) -> None:
    for category in categories:
        if not is_whole(category["id"]) or not 0 <= category["id"] < 1 << 31:
            raise ValueError(f"category {category}, expected a whole number from 0 as id")
        if category["isthing"] not in (0, 1):
            raise ValueError(f"category {category}, expected isthing 0 or 1")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
        for entry in content["annotations"]:
            for segment in entry["segments_info"]:
                segment.setdefault("iscrowd", 0)
            check_annotation(entry)
        if len({entry["image_id"] for entry in content["annotations"]}) < len(
            content["annotations"]
        ):
            raise ValueError("an image is listed twice")
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is not a COCO panoptic file ({error!r}); {_REMEDY}") from error
    return content
