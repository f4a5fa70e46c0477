"""Checks of single entries of a data.yaml; every error names the file and the entry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gbw_d2.data.formats.files import few
from gbw_d2.data.spec import DatasetError


def check_keys(
    path: Path, what: str, found: Any, known: tuple[str, ...], required: tuple[str, ...] = ()
) -> None:
    """Raises DatasetError if an entry is no mapping, has unknown keys or lacks required ones."""
    if not isinstance(found, Mapping):
        raise DatasetError(f"'{path}': {what} is {found!r}; expected entries {', '.join(known)}")
    unknown = [str(key) for key in found if key not in known]
    missing = [key for key in required if key not in found]
    if unknown or missing:
        words = [f"has unknown entries {few(unknown)}"] if unknown else []
        words += [f"lacks {few(missing)}"] if missing else []
        raise DatasetError(f"'{path}': {what} {' and '.join(words)} (known: {', '.join(known)})")


def mapping(path: Path, what: str, found: Any, example: str) -> dict[str, Any]:
    """Returns an entry that is a mapping, or {} if it is absent."""
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise DatasetError(f"'{path}': {what} is {found!r}; expected `{example}`")
    return {str(name): value for name, value in found.items()}


def names(path: Path, what: str, found: Any) -> list[str]:
    """Returns an entry that is a list of names, or [] if it is absent."""
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(n, str | int) for n in found):
        raise DatasetError(f"'{path}': {what} is {found!r}; expected a list of names")
    return [str(name) for name in found]


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; YAML's true and false are not."""
    return type(value) is int


def is_color(value: Any) -> bool:
    """Whether a value is a list of three whole numbers 0..255."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(is_whole(v) and 0 <= v <= 255 for v in value)
    )


def share(path: Path, what: str, value: Any) -> float:
    """Returns an entry that is a number 0..1."""
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise DatasetError(f"'{path}': {what} is {value!r}; expected a share of the rows, 0..1")
    return float(value)
