"""The names of all config keys, read from the source files without executing them.

Importing Detectron2's defaults imports PyTorch, which takes seconds; wrong keys are reported before
that. A file defines the keys that it assigns: ``cfg.A.B = value``, ``cfg.A = CfgNode()``.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gbw_d2.composition import ConfigError
from gbw_d2.former_names import former_name

_PACKAGE = Path(__file__).resolve().parent
_DETECTRON2 = (
    "config/defaults.py",
    "projects/deeplab/config.py",
    "projects/panoptic_deeplab/config.py",
)
_OURS = ("config.py", "cvrn_keys.py", "mask2former_keys.py", "self_training_keys.py")
# The names of the root of all keys, and of the class of nodes, in these files.
_ROOTS = ("cfg", "_C")
_NODES = ("CN", "CfgNode")
_WRONG_TYPE = re.compile(
    r"Type mismatch \(<class '(?P<expected>[\w.]+)'> vs\. <class '(?P<given>[\w.]+)'>\) "
    r"with values \((?P<values>.*)\) for config key: (?P<key>\S+)"
)


@dataclass(frozen=True)
class KeyNames:
    """The full names of all keys.

    Args:
        leaves: keys that hold a value.
        nodes: keys that hold other keys.
        open_nodes: nodes that may contain any key.
    """

    leaves: frozenset[str]
    nodes: frozenset[str]
    open_nodes: frozenset[str]

    def first_unknown(self, names: Iterable[str]) -> str | None:
        """Returns the first name that is no key, or None."""
        return next((name for name in names if not self._is_known(name)), None)

    def _is_known(self, name: str) -> bool:
        if name in self.leaves or name in self.nodes:
            return True
        return any(name.startswith(f"{node}.") for node in self.open_nodes)

    def names_in(self, content: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
        """Yields the full names of the keys that nested mappings set."""
        for key, value in content.items():
            name = f"{prefix}{key}"
            if name in self.nodes and isinstance(value, Mapping):
                yield from self.names_in(value, f"{name}.")
            else:
                yield name


def wrong_type(where: str, message: str) -> ConfigError | None:
    """Explains yacs's message about a value of the wrong type; None for other messages."""
    found = _WRONG_TYPE.fullmatch(message)
    if found is None:
        return None
    key, expected = found["key"], found["expected"].rsplit(".", 1)[-1]
    before, value = found["values"].rsplit(" vs. ", 1)
    wanted = f"a value of type {expected}" + (f", such as {before}" if before else "")
    if expected == "CfgNode":
        wanted = f"keys below it: `{key}.NAME VALUE` (command line), `NAME: VALUE` (YAML)"
    return ConfigError(f"{where}: {key} is {value}, of type {found['given']}; expected {wanted}")


def unknown_key(where: str, wrong: str, known: Iterable[str]) -> ConfigError:
    """Returns the error about an unknown key, with similar names.

    Args:
        where: the file or command line that sets it.
        wrong: its full name.
        known: full names of keys.
    """
    near = difflib.get_close_matches(wrong, list(known), n=3, cutoff=0.5)
    hint = former_name(wrong) or (f"; did you mean {' or '.join(near)}?" if near else "")
    return ConfigError(f"{where}: unknown config key {wrong}{hint}")


def read_key_names() -> KeyNames | None:
    """Reads the names of Detectron2's and this project's keys; None without Detectron2's files."""
    found = importlib.util.find_spec("detectron2")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0])
    files = [*(folder / name for name in _DETECTRON2), *(_PACKAGE / name for name in _OURS)]
    if not all(file.is_file() for file in files):
        return None
    kinds: dict[str, str] = {}
    for file in files:
        kinds.update(_assigned(ast.parse(file.read_text(encoding="utf-8"))))
    for file in sorted((_PACKAGE / "weighting").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        kinds.update((f"WEIGHTING.{name}", "leaf") for name in _declared(tree))
    nodes = frozenset(name for name, kind in kinds.items() if kind != "leaf")
    return KeyNames(
        frozenset(kinds) - nodes, nodes, frozenset(n for n in nodes if kinds[n] == "open")
    )


def _assigned(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yields the name and the kind ("leaf", "node" or "open") of each key that a file assigns."""
    for body in [tree.body, *(f.body for f in tree.body if isinstance(f, ast.FunctionDef))]:
        prefixes = dict.fromkeys(_ROOTS, "")
        for statement in body:
            if not isinstance(statement, ast.Assign):
                continue
            names = [n for n in (_name(t, prefixes) for t in statement.targets) if n]
            for target in statement.targets:
                if isinstance(target, ast.Name) and names:
                    prefixes[target.id] = f"{names[0]}."
            for name in names:
                yield from _kinds(name, statement.value)


def _name(node: ast.expr, prefixes: Mapping[str, str]) -> str | None:
    """Returns the full name of ``cfg.A.B``, or None for other expressions."""
    if not isinstance(node, ast.Attribute):
        return None
    if isinstance(node.value, ast.Name):
        prefix = prefixes.get(node.value.id)
        return None if prefix is None else f"{prefix}{node.attr}"
    above = _name(node.value, prefixes)
    return None if above is None else f"{above}.{node.attr}"


def _kinds(name: str, value: ast.expr) -> Iterator[tuple[str, str]]:
    is_node = isinstance(value, ast.Call) and getattr(value.func, "id", "") in _NODES
    if not is_node:
        yield name, "leaf"
        return
    assert isinstance(value, ast.Call)
    yield name, "open" if any(k.arg == "new_allowed" for k in value.keywords) else "node"
    for argument in value.args:
        if isinstance(argument, ast.Dict):
            yield from ((f"{name}.{ast.literal_eval(k)}", "leaf") for k in argument.keys if k)


def _declared(tree: ast.Module) -> Iterator[str]:
    """Yields the keys of the settings that a file declares (``gbw_d2.settings.setting``)."""
    for node in ast.walk(tree):
        call = node.value if isinstance(node, ast.AnnAssign) else None
        if not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "setting":
            continue
        assert isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        named = [ast.literal_eval(k.value) for k in call.keywords if k.arg == "key"]
        yield named[0] if named else node.target.id.upper()
