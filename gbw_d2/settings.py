"""Settings with default, range and meaning, each declared once as a dataclass field.

Config keys, their check and the documentation's tables are made from such dataclasses, so that a
new method with a new key is one file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gbw_d2.former_names import former_name

_DECLARATION = "declaration"
# Annotations are texts where a module postpones them.
_BOOLS = ("bool", bool)
_NUMBERS = ("float", "int", float, int)


class SettingError(ValueError):
    """A setting has a value that is not allowed.

    Args:
        name: name of the setting's field.
        found: its value and what is expected, a text that follows the name.
    """

    def __init__(self, name: str, found: str) -> None:
        super().__init__(f"{name} {found}")
        self.name = name
        self.found = found


@dataclass(frozen=True)
class Declaration:
    """The declaration of a setting, apart from its default.

    Attributes:
        meaning: one sentence for the documentation.
        low: minimum of a number; None for no minimum.
        high: maximum of a number; None for no maximum.
        low_excluded: whether the minimum itself is not allowed.
        high_excluded: whether the maximum itself is not allowed.
        whole: whether it must be an int.
        also: further allowed values, such as None for "not set".
        choices: returns the allowed values, for a setting with a few names or numbers.
        key: name of its config key; "" for the field's name in upper case.
        per_class: whether it has one value per class id, of which a head uses those of its classes.
    """

    meaning: str
    low: float | None = None
    high: float | None = None
    low_excluded: bool = False
    high_excluded: bool = False
    whole: bool = False
    also: tuple[Any, ...] = ()
    choices: Callable[[], Sequence[Any]] | None = None
    key: str = ""
    per_class: bool = False

    def expected(self) -> str:
        """Returns a text about the allowed values, or "" if all are allowed."""
        if self.choices is not None:
            return f"one of {', '.join(map(str, self.choices()))}"
        limits = []
        if self.low is not None:
            limits.append(f"{'>' if self.low_excluded else '>='} {self.low:g}")
        if self.high is not None and self.high < math.inf:
            limits.append(f"{'<' if self.high_excluded else '<='} {self.high:g}")
        elif self.high_excluded:
            limits.append("finite")
        if not limits and not self.whole:
            return ""
        besides = "".join(f"{value}, or " for value in self.also)
        kind = "whole number" if self.whole else "number"
        return f"{besides}a {kind} {' and '.join(limits)}".rstrip()

    def allows(self, value: Any) -> bool:
        """Returns whether a value is allowed."""
        if value in self.also:
            return True
        if self.choices is not None:
            return value in self.choices()
        if self.whole and not isinstance(value, int):
            return False
        above = self.low is None or (value > self.low if self.low_excluded else value >= self.low)
        below = self.high is None or (
            value < self.high if self.high_excluded else value <= self.high
        )
        return above and below


def setting(default: Any, meaning: str, **limits: Any) -> Any:
    """Declares a setting: a dataclass field with a meaning and a range.

    Args:
        default: its default value.
        meaning: one sentence for the documentation.
        limits: fields of :class:`Declaration`.
    """
    return dataclasses.field(
        default=default, metadata={_DECLARATION: Declaration(meaning, **limits)}
    )


def declarations(settings: Any) -> Iterator[tuple[dataclasses.Field[Any], Declaration]]:
    """Yields the declared fields of a settings dataclass, or of an instance of one."""
    for field in dataclasses.fields(settings):
        if _DECLARATION in field.metadata:
            yield field, field.metadata[_DECLARATION]


def config_keys(settings: Any) -> dict[str, str]:
    """Returns the field names of a settings dataclass by config key."""
    return {each.key or field.name.upper(): field.name for field, each in declarations(settings)}


def check_settings(settings: Any) -> None:
    """Checks every declared value of a settings instance.

    Raises:
        SettingError: a value is not allowed; the message names the setting, its value and what is
            expected.
    """
    for field, declared in declarations(settings):
        value = getattr(settings, field.name)
        if field.type in _BOOLS and not isinstance(value, bool):
            raise SettingError(field.name, f"is {value!r}; expected True or False")
        if not declared.allows(value):
            shown = f"'{value}'" if declared.choices is not None else value
            told = former_name(value) if declared.choices is not None else ""
            raise SettingError(field.name, f"is {shown}{told}; expected {declared.expected()}")


def merge_settings(cls: type[Any], kind: str, *layers: Mapping[str, Any]) -> Any:
    """Builds settings from layers of values, of which later ones take precedence; None = "not set".

    Args:
        cls: the settings dataclass.
        kind: description of the settings' owner for error messages.
        layers: values by field name.

    Raises:
        ValueError: an unknown name, or a value that is no number or out of range; the text "inf"
            counts as a number.
    """
    known = [field.name for field in dataclasses.fields(cls)]
    numbers = [field.name for field in dataclasses.fields(cls) if field.type in _NUMBERS]
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            if value is None:
                continue
            if name not in known:
                raise ValueError(f"{kind} has no setting '{name}' (it has: {', '.join(known)})")
            merged[name] = _number(name, value) if name in numbers else value
    return cls(**merged)


def _number(name: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    # YAML and command lines give inf as a text.
    if value == "inf":
        return math.inf
    raise SettingError(name, f"is {value!r}; expected a number")
