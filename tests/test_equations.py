"""Every function that docs/equations.md names is defined in the file it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def definitions(path: str) -> set[str]:
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in nodes if isinstance(node, kinds)}


def test_named_functions_exist() -> None:
    rows = re.findall(r"^\|[^|]+\|([^|]+)\|$", (ROOT / "docs/equations.md").read_text(), re.M)
    checked = 0
    for row in rows:
        path = ""
        for word in re.findall(r"`([\w/.]+)`", row):
            if word.endswith(".py"):
                path = word
            else:
                assert word in definitions(path), f"{path} does not define {word}"
                checked += 1
    assert checked > 20
