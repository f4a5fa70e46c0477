"""The classes of a data.yaml: its label space, and the values of label files for each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gbw_d2.data.formats.files import few
from gbw_d2.data.formats.own import entries
from gbw_d2.data.formats.own.palette import distinct_colors
from gbw_d2.data.spec import DatasetError
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import (
    CITYSCAPES_19,
    IGNORE_LABEL,
    MAX_CLASSES,
    VOID,
    LabelSpace,
    SemanticClass,
)

# Marks values that the file assigns to no class; neither a class id nor void.
UNLISTED = 254
KINDS = ("own", "cityscapes")


@dataclass(frozen=True)
class GivenClass:
    """A class as a description names it; COCO files have the last two entries, a data.yaml may."""

    name: str
    is_thing: bool | None = None
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class OwnClasses:
    """The classes of a description.

    Args:
        space: the label space.
        renamed: name in ``space``, or ``void``, of each class of the file.
    """

    space: LabelSpace
    renamed: Mapping[str, str]

    def class_id(self, name: str) -> int:
        """Returns the class id of a class of the file, 255 for ``void``."""
        return self.space.id_of.get(self.renamed.get(name, name), IGNORE_LABEL)


def read_classes(path: Path, content: Mapping[str, Any], given: list[GivenClass]) -> OwnClasses:
    """Makes the label space of a description.

    Args:
        path: the description, for errors and as the space's name.
        content: the content of the description.
        given: the named classes, without ``void``, in the file's order.

    Raises:
        DatasetError: an entry is invalid.
    """
    merge = _read_merge(path, content.get("merge"))
    renamed = {c.name: merge.get(c.name, c.name) for c in given}
    kept = list(dict.fromkeys(name for name in renamed.values() if name != VOID))
    aliases = {name: new for name, new in merge.items() if name not in renamed}
    strange = [n for n in merge.values() if n != VOID and n not in kept]
    if strange:
        raise DatasetError(
            f"'{path}': merge makes {few(sorted(set(strange)))}, which is no class of this file "
            f"and joins none (classes: {', '.join(kept)})"
        )
    kind = _kind(path, content, kept)
    space = _own(path, content, given, renamed, kept) if kind == "own" else CITYSCAPES_19
    known = {**{n: n for n in space.class_names}, **renamed}
    subsets = _read_subsets(path, content.get("subsets"), known)
    try:
        return OwnClasses(replace(space, name=str(path), aliases=aliases, subsets=subsets), renamed)
    except UserError as error:
        raise DatasetError(f"'{path}': {error}") from error


def _kind(path: Path, content: Mapping[str, Any], kept: list[str]) -> str:
    foreign = [name for name in kept if name not in CITYSCAPES_19.id_of]
    asked = content.get("label_space")
    if asked is None:
        plain = kept and not foreign and not any(content.get(k) for k in ("things", "colors"))
        return "cityscapes" if plain else "own"
    if not isinstance(asked, str) or asked not in KINDS:
        raise DatasetError(f"'{path}': label_space is {asked!r}; expected {' or '.join(KINDS)}")
    if asked == "cityscapes" and foreign:
        raise DatasetError(
            f"'{path}': label_space cityscapes, but classes {few(foreign)} are none of its 19 "
            f"(known: {', '.join(CITYSCAPES_19.class_names)}); rename or merge them, or write "
            "`label_space: own`"
        )
    fixed = [key for key in ("things", "colors") if asked == "cityscapes" and content.get(key)]
    if fixed:
        raise DatasetError(
            f"'{path}': {' and '.join(fixed)} of label_space cityscapes are Cityscapes' own; leave "
            "them out, or write `label_space: own`"
        )
    return str(asked)


def _own(
    path: Path,
    content: Mapping[str, Any],
    given: list[GivenClass],
    renamed: Mapping[str, str],
    kept: list[str],
) -> LabelSpace:
    if not 1 <= len(kept) <= MAX_CLASSES:
        raise DatasetError(f"'{path}': {len(kept)} classes; expected 1 to {MAX_CLASSES}")
    things = _read_things(path, content.get("things"), given, renamed, kept)
    colors = _read_colors(path, content.get("colors"), given, renamed, kept)
    return LabelSpace(
        str(path), tuple(SemanticClass(name, name in things, colors[name]) for name in kept)
    )


def _read_merge(path: Path, found: Any) -> dict[str, str]:
    """Returns the new name by old name."""
    merge: dict[str, str] = {}
    rows = entries.mapping(path, "merge", found, "merge: {vehicle: [car, bus]}")
    for new, olds in rows.items():
        for old in entries.names(path, f"merge, '{new}'", olds):
            if old in merge:
                raise DatasetError(f"'{path}': merge joins '{old}' into two classes")
            merge[old] = new
    chained = sorted(new for new in set(merge.values()) if merge.get(new, new) != new)
    if chained:
        raise DatasetError(f"'{path}': merge joins others into {few(chained)}, and it into another")
    return merge


def _read_things(
    path: Path,
    found: Any,
    given: list[GivenClass],
    renamed: Mapping[str, str],
    kept: list[str],
) -> set[str]:
    listed = set(entries.names(path, "things", found))
    unknown = sorted(listed - {*kept, *renamed})
    if unknown:
        raise DatasetError(
            f"'{path}': things names {few(unknown)}, which is no class (classes: {', '.join(kept)})"
        )
    if found is None:
        listed = {c.name for c in given if c.is_thing}
    things = set()
    for name in kept:
        parts = [old for old, new in renamed.items() if new == name]
        if name in listed or all(part in listed for part in parts):
            things.add(name)
        elif any(part in listed for part in parts):
            raise DatasetError(
                f"'{path}': merge joins things and others ({few(parts)}) into '{name}'; name "
                f"'{name}' under things if its instances are counted, else take its parts out"
            )
    return things


def _read_colors(
    path: Path,
    found: Any,
    given: list[GivenClass],
    renamed: Mapping[str, str],
    kept: list[str],
) -> dict[str, tuple[int, int, int]]:
    rows = entries.mapping(path, "colors", found, "colors: {car: [0, 0, 142]}")
    unknown = sorted(rows.keys() - {*kept, *renamed, VOID})
    if unknown:
        raise DatasetError(f"'{path}': colors names {few(unknown)}, which is no class")
    colors = {renamed[c.name]: c.color for c in reversed(given) if c.color is not None}
    for name, value in rows.items():
        if not entries.is_color(value):
            raise DatasetError(
                f"'{path}': the colour of '{name}' is {value!r}; expected [red, green, blue], each "
                "0..255"
            )
        colors[renamed.get(name, name)] = tuple(value)
    bare = [name for name in kept if name not in colors]
    return colors | dict(zip(bare, distinct_colors(len(bare), [*colors.values()]), strict=True))


def _read_subsets(path: Path, found: Any, known: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    subsets: dict[str, tuple[str, ...]] = {}
    rows = entries.mapping(path, "subsets", found, "subsets: {rare: [rider, bus]}")
    for subset, members in rows.items():
        listed = entries.names(path, f"subset '{subset}'", members)
        unknown = [name for name in listed if known.get(name, VOID) == VOID]
        if unknown or not listed:
            raise DatasetError(
                f"'{path}': subset '{subset}' names {few(unknown) or 'nothing'}; expected classes "
                f"of this file"
            )
        subsets[subset] = tuple(dict.fromkeys(known[name] for name in listed))
    return subsets


@dataclass(frozen=True)
class CodeTable:
    """The mapping from codes in label files to classes.

    Args:
        codes: (n,) int64, ascending, all different.
        class_ids: (n,) uint8, 255 = void.
    """

    codes: np.ndarray
    class_ids: np.ndarray

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """Maps codes of any shape to uint8 class ids, and unknown codes to :data:`UNLISTED`."""
        if not len(self.codes):
            return np.full(values.shape, UNLISTED, dtype=np.uint8)
        if values.dtype.itemsize <= 2:
            table = np.full(1 << 8 * values.dtype.itemsize, UNLISTED, dtype=np.uint8)
            small = self.codes < len(table)
            table[self.codes[small]] = self.class_ids[small]
            return table[values]
        place = np.searchsorted(self.codes, values)
        place[place == len(self.codes)] = 0
        return np.where(self.codes[place] == values, self.class_ids[place], np.uint8(UNLISTED))


def code_table(path: Path, codes_of: Mapping[str, list[int]], classes: OwnClasses) -> CodeTable:
    """Makes the table of one split.

    Args:
        path: the description, for errors.
        codes_of: codes by name of a class in the file.
        classes: the classes of the description.

    Raises:
        DatasetError: two classes have the same code.
    """
    owner: dict[int, str] = {}
    for name, codes in codes_of.items():
        for code in codes:
            if owner.setdefault(code, name) != name:
                raise DatasetError(f"'{path}': two classes have the value {code}")
    codes = sorted(owner)
    class_ids = [classes.class_id(owner[code]) for code in codes]
    return CodeTable(np.array(codes, dtype=np.int64), np.array(class_ids, dtype=np.uint8))
