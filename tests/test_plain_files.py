"""YAML and JSON: plain values, or one line that says what is wrong."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from gbw_d2.composition import ConfigError, compose
from gbw_d2.plain_files import ContentError, parse_json, parse_yaml, read_json, read_yaml

# Nine lines that stand for nine to the ninth values.
MANY = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("SOLVER: {MAX_ITER: 1}\nSOLVER: {BASE_LR: 2}", "'SOLVER' stands twice.*line 2"),
        ("{a: 1, b: 2, a: 3}", "'a' stands twice"),
        ("&a [*a]", "holds itself"),
        (MANY, "more than 1000000 values"),
        ("[" * 5000, "too deep"),
        ("{a: " * 5000, "too deep"),
        ("- " * 300 + "a", "too deep"),
        ('"a\\0b"', "no text"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("!!int x", "invalid literal"),
        ("2001-99-99", "month must be"),
        ("!!timestamp x", "."),
        ("!!bool x", "."),
        ("a: [1", "expected"),
        ("- a\n--- b", "single document"),
    ],
)
def test_yaml_that_cannot_be_used_is_told_in_one_line(text: str, word: str) -> None:
    with pytest.raises(ContentError, match=word) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_yaml_is_read_as_before() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\nd: {1: one, '1': text}"
    x = {"x": 1, "y": 2}
    expected = {"a": x, "b": {"x": 1, "y": 3}, "c": [x, x], "d": {1: "one", "1": "text"}}
    assert parse_yaml(text) == expected
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[" * 200_000, "too deep"),
        ('{"a": "\\ud800"}', "no text"),
        ("{", "line 1"),
        ("9" * 5000, "."),
    ],
)
def test_json_that_cannot_be_used_is_told_in_one_line(text: str, word: str) -> None:
    with pytest.raises(ContentError, match=word) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)


def test_codings(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": "\\ud83d\\ude97"}', encoding="utf-8-sig")
    assert read_json(path) == {"a": "\N{AUTOMOBILE}"}
    # YAML knows no pairs of code units.
    with pytest.raises(ContentError, match="no text"):
        read_yaml(path)
    path.write_text('{"a": "\N{AUTOMOBILE}"}', encoding="utf-8-sig")
    assert read_yaml(path) == {"a": "\N{AUTOMOBILE}"}
    path.write_text("{}", encoding="utf-16")
    for read in (read_json, read_yaml):
        with pytest.raises(ContentError, match="UTF-8"):
            read(path)


def test_a_config_that_sets_a_key_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("SOLVER: {MAX_ITER: 5}\nSOLVER: {BASE_LR: 0.1}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: 'SOLVER' stands twice"):
        compose(path)
