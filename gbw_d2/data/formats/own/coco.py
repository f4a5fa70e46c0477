"""The JSON file of a split of your own data whose labels are COCO panoptic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gbw_d2.data.formats.coco_panoptic import SEGMENTS, check_annotation, is_whole
from gbw_d2.data.formats.own import entries
from gbw_d2.data.formats.own.classes import GivenClass
from gbw_d2.data.spec import DatasetError
from gbw_d2.plain_files import read_json


@dataclass(frozen=True)
class Annotations:
    """The checked content of a COCO panoptic JSON file.

    Args:
        path: the file.
        categories: class by category id.
        by_image: annotation by name of an image, without folder and suffix.
    """

    path: Path
    categories: Mapping[int, GivenClass]
    by_image: Mapping[str, Mapping[str, Any]]


def read_annotations(path: Path) -> Annotations:
    """Reads a COCO panoptic JSON file.

    An image is identified by the file name that ``images`` gives its id (text or number), and by
    the name of its PNG file.

    Raises:
        DatasetError: the file cannot be read, or has another format.
    """
    try:
        content = read_json(path)
        categories = {c["id"]: _given(c) for c in content["categories"]}
        if len(categories) < len(content["categories"]):
            raise ValueError("two categories have one id")
        image_names = {str(i["id"]): i.get("file_name", "") for i in content.get("images", [])}
        by_image: dict[str, Mapping[str, Any]] = {}
        for annotation in content["annotations"]:
            _check(annotation, categories)
            name = image_names.get(str(annotation["image_id"])) or annotation["file_name"]
            for key in {Path(name).stem, Path(annotation["file_name"]).stem}:
                if key in by_image and by_image[key] is not annotation:
                    raise ValueError(f"image {key} has two annotations")
                by_image[key] = annotation
    except OSError as error:
        raise DatasetError(f"cannot read '{path}': {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"'{path}' is not a COCO panoptic file: {_found(error)}") from error
    return Annotations(path, categories, by_image)


def _found(error: Exception) -> str:
    """Says in words what was found instead of a COCO panoptic file."""
    if not isinstance(error, KeyError):
        return str(error)
    missing = error.args[0]
    if missing == SEGMENTS:
        return (
            f"an annotation has no '{SEGMENTS}'; if the file has boxes or polygons, draw their "
            "labels as docs/your_own_data.md shows under 'Polygons'"
        )
    return f"an entry '{missing}' is missing"


def _given(category: Mapping[str, Any]) -> GivenClass:
    color, name, is_thing = category.get("color"), category["name"], category.get("isthing", 0)
    if not is_whole(category["id"]) or not 0 <= category["id"] < 1 << 31:
        raise TypeError(f"category {category} has no whole number from 0 as id")
    if not isinstance(name, str) or not name.strip():
        raise TypeError(f"category {category} has no name")
    if is_thing not in (0, 1):
        raise ValueError(f"category {category}, expected isthing 0 or 1")
    if color is not None and not entries.is_color(color):
        raise ValueError(f"category {category}, expected a color of three numbers 0..255")
    return GivenClass(name, bool(is_thing), None if color is None else tuple(color))


def _check(annotation: dict[str, Any], categories: Mapping[int, GivenClass]) -> None:
    for segment in annotation[SEGMENTS]:
        segment.setdefault("iscrowd", 0)
    check_annotation(annotation)
    for segment in annotation[SEGMENTS]:
        if segment["category_id"] not in categories:
            raise ValueError(
                f"segment {segment['id']} of {annotation['file_name']} has category "
                f"{segment['category_id']}, which `categories` does not list"
            )
