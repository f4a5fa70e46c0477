"""YAML and JSON as plain values, or one line that says what is wrong.

The parsers raise a dozen kinds of errors between them, and take what nothing here can use: a key
that stands twice, of which one is lost, lists within themselves, a few lines of aliases that stand
for gigabytes, text that no file name can hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

# Far beyond what people write.
_MAX_DEPTH = 50
_MAX_VALUES = 1_000_000
# JSON may write what is no text: half of a pair of code units, or the end of a C string.
_SUSPICIOUS = re.compile(r"\\u(?:d[89a-f]|0000)", re.IGNORECASE)
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_MERGE = "tag:yaml.org,2002:merge"


class ContentError(ValueError):
    """A file is not what its format says, or holds what cannot be used; one line says which."""


def read_yaml(path: str | Path) -> Any:
    """Reads a YAML or JSON file; no tag of it runs code.

    Args:
        path: in UTF-8, with or without a mark at its beginning.

    Raises:
        ContentError: it is neither.
        OSError: it cannot be read.
    """
    return parse_yaml(_text(path))


def parse_yaml(text: str) -> Any:
    """Reads YAML; as :func:`read_yaml`."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ContentError("lists or keys stand within each other too deep") from None
    # The parser hands on what Python says of `!!int x` or of the 99th day of a month.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # YAML's messages have several lines.
        raise ContentError(_one_line(error)) from error


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Args:
        path: in UTF-8, with or without a mark at its beginning.

    Raises:
        ContentError: it is none.
        OSError: it cannot be read.
    """
    return parse_json(_text(path))


def parse_json(text: str) -> Any:
    """Reads JSON; as :func:`read_json`."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ContentError("lists or keys stand within each other too deep") from None
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
    """Looks at the whole file before values are made of it."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        super().fetch_flow_collection_start(token)
        # The scanner's work grows with the square of it.
        if self.flow_level > _MAX_DEPTH:
            raise ContentError("lists or keys stand within each other too deep")

    def add_indent(self, column: int) -> bool:
        if len(self.indents) > _MAX_DEPTH:
            raise ContentError("lists or keys stand within each other too deep")
        return bool(super().add_indent(column))

    def get_single_node(self) -> yaml.Node | None:
        root: yaml.Node | None = super().get_single_node()
        if root is not None:
            _count(root, {}, 0)
        return root


def _count(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Returns of how many values a node is, each alias counted as what it stands for."""
    if id(node) in known:
        if not known[id(node)]:
            raise _problem("it holds itself", node)
        return known[id(node)]
    if depth > _MAX_DEPTH:
        raise _problem("lists or keys stand within each other too deep", node)
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
