"""What is damaged and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutations import Mutation


class NonsenseError(AssertionError):
    """A damaged file was taken, and what was read of it cannot be."""


@dataclass(frozen=True)
class Kind:
    """Files that belong to one reader.

    Args:
        name: in words.
        share: how often it is drawn beside the others.
        files: file -> how it may be changed; all of them are whole again after each trial.
        read: reads what the files belong to, and raises :class:`NonsenseError` where what it got
            cannot be.
    """

    name: str
    share: int
    files: Mapping[Path, Sequence[Mutation]]
    read: Callable[[], None]


def holds(truth: bool, what: str = "") -> None:
    """Raises :class:`NonsenseError` where something does not hold of what was read."""
    if not truth:
        raise NonsenseError(what)
