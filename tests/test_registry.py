"""The registry's errors name what is known."""

from __future__ import annotations

import pytest

from gbw_d2.registry import Registry, UnknownNameError


def test_register_get_and_errors() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("two")(2)
    registry.register("one")(1)
    assert registry.get("two") == 2 and list(registry) == ["one", "two"] and "one" in registry
    with pytest.raises(
        UnknownNameError, match=r"unknown number 'tow'; did you mean 'two'\? \(known: one, two\)"
    ):
        registry.get("tow")
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("one")(3)


def test_a_name_is_a_text() -> None:
    with pytest.raises(UnknownNameError, match=r"thing is \['a'\]; expected a name"):
        Registry("thing").get(["a"])  # type: ignore[arg-type]
