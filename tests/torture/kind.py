"""Kinds of files that are damaged, and their readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutations import Mutation


class NonsenseError(AssertionError):
    """A damaged file was accepted although the values read from it are invalid."""


@dataclass(frozen=True)
class Kind:
    """Files that belong to one reader.

    Args:
        name: in words.
        share: how often it is drawn, relative to the others.
        files: file -> ways to change it; all files are restored after each trial.
        read: reads the files, and raises :class:`NonsenseError` if the result is invalid.
    """

    name: str
    share: int
    files: Mapping[Path, Sequence[Mutation]]
    read: Callable[[], None]


def holds(truth: bool, what: str = "") -> None:
    """Raises :class:`NonsenseError` if a statement about the values read is not true."""
    if not truth:
        raise NonsenseError(what)
