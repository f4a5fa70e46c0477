"""A table of objects by name, whose errors list the known names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from gbw_d2.errors import UserError
from gbw_d2.former_names import former_name

T = TypeVar("T")


class UnknownNameError(UserError):
    """A config contains a name that is not registered."""


class Registry(Generic[T]):
    """Maps the names in configs to objects.

    Args:
        kind: description of the entries ("weighting scheme") for error messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that registers its argument under ``name``.

        Raises:
            ValueError: the name is already registered.
        """

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """Returns the entry called ``name``.

        Raises:
            UnknownNameError: the name is not registered; the message lists the known ones.
        """
        if not isinstance(name, str):
            raise UnknownNameError(f"{self.kind} is {name!r}; expected a name")
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = former_name(name) or (f"; did you mean '{near[0]}'?" if near else "")
            known = ", ".join(self.names())
            raise UnknownNameError(f"unknown {self.kind} '{name}'{hint} (known: {known})")
        return self._entries[name]

    def names(self) -> list[str]:
        """Returns the known names, sorted."""
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
