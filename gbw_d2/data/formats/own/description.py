"""Reads and checks a data.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gbw_d2.data.formats.files import few
from gbw_d2.data.formats.own import entries
from gbw_d2.data.formats.own.classes import (
    CodeTable,
    GivenClass,
    OwnClasses,
    code_table,
    read_classes,
)
from gbw_d2.data.formats.own.coco import Annotations, read_annotations
from gbw_d2.data.formats.own.instances import InstanceCoding, read_coding
from gbw_d2.data.formats.own.labels import LABEL_CODINGS
from gbw_d2.data.spec import DatasetError, datasets_root
from gbw_d2.label_spaces import VOID
from gbw_d2.paths import expanded
from gbw_d2.plain_files import ContentError, read_yaml

_FILE_SUFFIXES = (".yaml", ".yml", ".json")
_FOLDERS = ("images", "labels", "instances", "annotations")
_SUFFIXES = ("image_suffix", "label_suffix", "instance_suffix")
_REPLACEMENTS = ("label_replace", "instance_replace")
_SPLIT_KEYS = (
    *(*_FOLDERS, *_SUFFIXES, *_REPLACEMENTS, "label_coding", "instance_coding", "crowd", "classes"),
    "ignore_rows",
)
_LAYOUT_KEYS = ("layout", "root", "split")
_CLASS_KEYS = ("classes", "label_space", "things", "colors", "subsets", "merge")
# The entries for which `layout: cityscapes` is an abbreviation.
_CITYSCAPES = {
    "images": "leftImg8bit",
    "labels": "gtFine",
    "instances": "gtFine",
    "image_suffix": "_leftImg8bit.png",
    "label_suffix": "_gtFine_labelIds.png",
    "instance_suffix": "_gtFine_instanceIds.png",
    "instance_coding": "cityscapes",
}


@dataclass(frozen=True)
class OwnSplit:
    """One split of a description.

    Args:
        images: folder of the images, searched with all folders below it.
        labels: folder of the labels; None for an unlabelled split.
        instances: folder of the instance numbers; None where there are none.
        annotations: COCO panoptic JSON file, whose PNG files are in ``labels``; None where there
            is none.
        image_suffix: suffix of image files; "" for .png, .jpg or .jpeg.
        label_suffix: replaces it in the name of the label.
        instance_suffix: replaces it in the name of the instance file.
        label_replace: texts in an image's path below ``images`` and their replacements in the path
            of its label, applied in order.
        instance_replace: the same for the instance file.
        label_coding: a name of ``LABEL_CODINGS``.
        instance_coding: the meaning of an instance file's values.
        ignore_rows: share of the rows at top and bottom of an image that show no class.
    """

    images: Path
    labels: Path | None = None
    instances: Path | None = None
    annotations: Path | None = None
    image_suffix: str = ""
    label_suffix: str = ".png"
    instance_suffix: str = ".png"
    label_replace: tuple[tuple[str, str], ...] = ()
    instance_replace: tuple[tuple[str, str], ...] = ()
    label_coding: str = "index"
    instance_coding: InstanceCoding | None = None
    ignore_rows: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class OwnData:
    """The checked content of a description.

    Args:
        path: the description's file.
        classes: its classes; None where no split has labels.
        splits: splits by name.
        tables: mapping from codes in label files to classes, by name of a labelled split; the codes
            of a COCO split are category ids.
    """

    path: Path
    classes: OwnClasses | None
    splits: dict[str, OwnSplit]
    tables: dict[str, CodeTable]


def is_description(name: str) -> bool:
    """Whether a name is the path of a description."""
    return name.lower().endswith(_FILE_SUFFIXES)


def describes_own_data(name: str) -> bool:
    """Whether a dataset's name has the form ``file.yaml:split``."""
    return is_description(name.rpartition(":")[0])


def read_description(path: Path) -> OwnData:
    """Reads a description.

    Args:
        path: the YAML or JSON file.

    Raises:
        DatasetError: the file is missing, or one of its entries is invalid.
    """
    content = _read_file(path)
    entries.check_keys(
        path, "the file", content, (*_CLASS_KEYS, "ignore_rows", "splits"), required=("splits",)
    )
    if not isinstance(content["splits"], Mapping) or not content["splits"]:
        raise DatasetError(f"'{path}': splits is empty; expected `name: {{images: folder}}`")
    rows = {str(name): _expanded(path, str(name), s) for name, s in content["splits"].items()}
    splits = {name: _read_split(path, name, row, content) for name, row in rows.items()}
    given: dict[str, GivenClass] = {}
    codes: dict[str, dict[str, list[int]]] = {}
    for name, split in splits.items():
        if split.labels is None:
            continue
        listed = rows[name].get("classes", content.get("classes"))
        codes[name], found = _read_codes(path, name, split, listed)
        for each in found:
            given.setdefault(each.name, each)
    # The order of the description's own list takes precedence.
    order = [str(name) for name in content.get("classes") or {} if str(name) in given]
    classes = None
    if given:
        sorted_given = [given[n] for n in dict.fromkeys((*order, *given))]
        classes = read_classes(path, content, sorted_given)
    tables = {} if classes is None else {n: code_table(path, c, classes) for n, c in codes.items()}
    return OwnData(path, classes, splits, tables)


def _read_file(path: Path) -> Any:
    try:
        # Every JSON file is YAML too.
        return read_yaml(path)
    except OSError as error:
        raise DatasetError(
            f"cannot read '{path}': {error.strerror}. The path is relative to the datasets' root "
            f"(DETECTRON2_DATASETS moves it), '{datasets_root()}'.{_hint(path)}"
        ) from error
    except ContentError as error:
        raise DatasetError(f"'{path}' is neither YAML nor JSON: {error}") from error


def _hint(path: Path) -> str:
    """Says what to write for a file that was named as seen from the current folder."""
    root = datasets_root()
    given = path.relative_to(root) if path.is_relative_to(root) else path
    if given == path or not given.is_file():
        return ""
    below = given.is_relative_to(root)
    return f" Write '{given.relative_to(root) if below else given.resolve()}'"


def _expanded(path: Path, name: str, row: Any) -> Any:
    """Replaces ``layout: cityscapes`` by its entries."""
    if not isinstance(row, Mapping) or "layout" not in row:
        return row
    entries.check_keys(
        path, f"split '{name}'", row, (*_LAYOUT_KEYS, *_SPLIT_KEYS), required=("split",)
    )
    if row["layout"] != "cityscapes":
        raise DatasetError(
            f"'{path}': split '{name}': layout is {row['layout']!r}; expected cityscapes"
        )
    folders = {
        key: str(Path(str(row.get("root", "."))) / _CITYSCAPES[key] / str(row["split"]))
        for key in ("images", "labels", "instances")
    }
    rest = {key: value for key, value in row.items() if key not in _LAYOUT_KEYS}
    return {**_CITYSCAPES, **folders, **rest}


def _read_split(path: Path, name: str, row: Any, content: Mapping[str, Any]) -> OwnSplit:
    what = f"split '{name}'"
    entries.check_keys(path, what, row, _SPLIT_KEYS, required=("images",))
    texts = {k: v for k, v in row.items() if k in (*_FOLDERS, *_SUFFIXES) and v is not None}
    odd = [key for key, value in texts.items() if not isinstance(value, str) or not value]
    if odd:
        raise DatasetError(f"'{path}': {what}: {few(odd)} must be text, a folder or a name's end")
    if "images" not in texts:
        raise DatasetError(f"'{path}': {what} names no folder of images")
    if "labels" not in texts and ("instances" in texts or "annotations" in texts):
        lonely = "instances" if "instances" in texts else "annotations"
        raise DatasetError(f"'{path}': {what} has {lonely} but no labels, which give the classes")
    if "instances" in texts and "annotations" in texts:
        raise DatasetError(
            f"'{path}': {what} has annotations (COCO panoptic), which hold the instances too; "
            "leave `instances` out"
        )
    coding = row.get("label_coding", "index")
    if not isinstance(coding, str) or coding not in LABEL_CODINGS:
        raise DatasetError(
            f"'{path}': {what}: label_coding is {coding!r}; expected one of "
            f"{', '.join(LABEL_CODINGS)}"
        )
    return OwnSplit(
        **{
            key: path.parent / expanded(value, f"'{path}': {what}")
            for key, value in texts.items()
            if key in _FOLDERS
        },
        **{key: value for key, value in texts.items() if key in _SUFFIXES},
        **{key: _read_replacements(path, f"{what}, {key}", row.get(key)) for key in _REPLACEMENTS},
        label_coding=coding,
        instance_coding=read_coding(path, what, row.get("instance_coding"), row.get("crowd")),
        ignore_rows=_read_rows(path, what, row.get("ignore_rows", content.get("ignore_rows"))),
    )


def _read_replacements(path: Path, what: str, found: Any) -> tuple[tuple[str, str], ...]:
    example = f"{what.rpartition(' ')[2]}: {{rgb_: classgt_}}"
    rows = entries.mapping(path, what, found, example)
    if not all(old and isinstance(new, str) for old, new in rows.items()):
        raise DatasetError(f"'{path}': {what} is {found!r}; expected `{example}`")
    return tuple(rows.items())


def _read_rows(path: Path, what: str, found: Any) -> tuple[float, float]:
    if found is None:
        return (0.0, 0.0)
    entries.check_keys(path, f"{what}, ignore_rows", found, ("top", "bottom"))
    top, bottom = (
        entries.share(path, f"ignore_rows, {key}", found.get(key, 0)) for key in ("top", "bottom")
    )
    if top + bottom >= 1:
        raise DatasetError(f"'{path}': ignore_rows leaves no row of an image")
    return (top, bottom)


def _read_codes(
    path: Path, name: str, split: OwnSplit, listed: Any
) -> tuple[dict[str, list[int]], list[GivenClass]]:
    """Returns the codes of each class of a split, and the classes without ``void``."""
    if split.annotations is not None:
        return _coco_codes(path, annotations_of(split), listed)
    if not listed:
        raise DatasetError(
            f"'{path}': split '{name}' has labels, but no classes say what their values "
            "mean; expected `classes: {road: 1, ..., void: 0}`"
        )
    codes = _codes(path, listed, split.label_coding)
    return codes, [GivenClass(c) for c in codes if c != VOID]


def _codes(path: Path, listed: Any, coding: str) -> dict[str, list[int]]:
    rows = entries.mapping(path, "classes", listed, "classes: {road: 1, car: [4, 5], void: 0}")
    codes: dict[str, list[int]] = {}
    for name, value in rows.items():
        try:
            codes[name] = LABEL_CODINGS[coding].codes(value)
        except ValueError as error:
            raise DatasetError(
                f"'{path}': class '{name}' has value {value!r}; expected {error} "
                f"(label_coding {coding})"
            ) from error
    return codes


def _coco_codes(
    path: Path, annotations: Annotations, listed: Any
) -> tuple[dict[str, list[int]], list[GivenClass]]:
    categories = annotations.categories
    if not listed:
        codes: dict[str, list[int]] = {}
        for number, each in categories.items():
            codes.setdefault(each.name, []).append(number)
        return codes, [c for c in dict.fromkeys(categories.values()) if c.name != VOID]
    codes = _codes(path, listed, "index")
    known = {number for numbers in codes.values() for number in numbers}
    unlisted = [f"{i} ({c.name})" for i, c in categories.items() if i not in known]
    if unlisted:
        raise DatasetError(
            f"'{path}' does not list categories {few(unlisted)} of '{annotations.path}'; add "
            f"their ids to a class, or to `{VOID}`"
        )
    given = []
    for name, numbers in codes.items():
        parts = [categories[i] for i in numbers if i in categories]
        if name != VOID:
            color = next((c.color for c in parts if c.color is not None), None)
            given.append(GivenClass(name, all(c.is_thing for c in parts) and bool(parts), color))
    return codes, given


def annotations_of(split: OwnSplit) -> Annotations:
    """Reads the JSON file of a COCO split, cached until the file changes."""
    assert split.annotations is not None
    try:
        state = split.annotations.stat()
    except OSError as error:
        raise DatasetError(f"cannot read '{split.annotations}': {error.strerror}") from error
    return _cached_annotations(split.annotations, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _cached_annotations(path: Path, changed: int, size: int) -> Annotations:
    return read_annotations(path)
