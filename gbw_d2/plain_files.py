"""Readers of YAML and JSON files whose errors are one line.

The parsers raise a dozen kinds of errors, and accept content that cannot be used: duplicate keys,
of which one is lost, lists that contain themselves, a few lines of aliases that expand to
gigabytes, and text that no file name can contain.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

# Limits far beyond what real files contain.
_MAX_DEPTH = 50
_MAX_VALUES = 1_000_000
_TOO_DEEP = "lists or keys are nested too deeply"
# JSON can encode invalid text: single surrogates, or the null character.
_SUSPICIOUS = re.compile(r"\\u(?:d[89a-f]|0000)", re.IGNORECASE)
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_MERGE = "tag:yaml.org,2002:merge"


class ContentError(ValueError):
    """A file violates its format, or has content that cannot be used; the message is one line."""


def read_yaml(path: str | Path) -> Any:
    """Reads a YAML or JSON file without executing code by tags.

    Args:
        path: the file, in UTF-8 with or without a byte order mark.

    Raises:
        ContentError: the content is invalid.
        OSError: the file cannot be read.
    """
    return parse_yaml(_text(path))


def parse_yaml(text: str) -> Any:
    """Parses YAML; see :func:`read_yaml`."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ContentError(_TOO_DEEP) from None
    # The parser passes on Python's errors about `!!int x` or the 99th day of a month.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # YAML's messages have several lines.
        raise ContentError(_one_line(error)) from error


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Args:
        path: the file, in UTF-8 with or without a byte order mark.

    Raises:
        ContentError: the content is invalid.
        OSError: the file cannot be read.
    """
    return parse_json(_text(path))


def parse_json(text: str) -> Any:
    """Parses JSON; see :func:`read_json`."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ContentError(_TOO_DEEP) from None
    except ValueError as error:
        raise ContentError(_one_line(error)) from error
    if _SUSPICIOUS.search(text):
        for word in _texts(content):
            if _NO_TEXT.search(word):
                raise ContentError(f"{word!r} is no text")
    return content


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ContentError(
            f"it is not text in UTF-8 ({error.reason}, byte {error.start})"
        ) from error


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def _texts(content: Any) -> Iterator[str]:
    todo = [content]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            todo += [*value, *value.values()]
        elif isinstance(value, list):
            todo += value


class _Loader(yaml.SafeLoader):
    """Checks the whole file before values are constructed."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        super().fetch_flow_collection_start(token)
        # The scanner's work is quadratic in this depth.
        if self.flow_level > _MAX_DEPTH:
            raise ContentError(_TOO_DEEP)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) > _MAX_DEPTH:
            raise ContentError(_TOO_DEEP)
        return bool(super().add_indent(column))

    def get_single_node(self) -> yaml.Node | None:
        root: yaml.Node | None = super().get_single_node()
        if root is not None:
            _count(root, {}, 0)
        return root


def _count(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Returns the number of values of a node, with aliases expanded."""
    if id(node) in known:
        if not known[id(node)]:
            raise _problem("it holds itself", node)
        return known[id(node)]
    if depth > _MAX_DEPTH:
        raise _problem(_TOO_DEEP, node)
    known[id(node)], total = 0, 1
    if isinstance(node, yaml.ScalarNode):
        if _NO_TEXT.search(node.value):
            raise _problem(f"{node.value!r} is no text", node)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count(child, known, depth + 1) for child in node.value)
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node)
        total += sum(_count(part, known, depth + 1) for pair in node.value for part in pair)
    if total > _MAX_VALUES:
        raise _problem(f"more than {_MAX_VALUES} values", node)
    known[id(node)] = total
    return total


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[Hashable] = set()
    for key, _ in node.value:
        name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
        if name is not None and key.tag != _MERGE:
            if name in seen:
                raise _problem(f"'{key.value}' stands twice, so one would be lost", key)
            seen.add(name)


def _problem(what: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)
