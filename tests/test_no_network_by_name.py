"""Outside of modeling, no file contains the name of an architecture or of a head."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.modeling import meta_arch

from detectron2.modeling import META_ARCH_REGISTRY

PACKAGE = Path(__file__).parents[1] / "gbw_d2"
ROOMS = ("data", "engine", "evaluation", "inference", "uda")
# There it is the task, beside "panoptic": kinds of data sets, evaluators and files.
TASKS = {"data": {"semantic"}, "evaluation": {"semantic"}, "inference": {"semantic"}}


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """Yields line and text of each string of a file that is not a docstring."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ):
            yield node.lineno, node.value


@pytest.fixture
def names(tiny_config: Any) -> set[str]:
    """Names of all architectures of the package, and of the heads that they can have."""
    auxiliary = ("MODEL.AUXILIARY_HEAD.ENABLED", True, "MODEL.AUXILIARY_HEAD.IN_FEATURE", "res3")
    cfg, space = tiny_config(*auxiliary), LABEL_SPACES.get("cityscapes_16")
    ours = {n: c for n, c in META_ARCH_REGISTRY if c.__module__.startswith(meta_arch.__name__)}
    heads = {head for cls in ours.values() for head in cls.heads(cfg, space)}
    assert {"semantic", "auxiliary", "center", "offset"} <= heads
    return {*ours, *heads}


@pytest.mark.parametrize("room", ROOMS)
def test_no_name_is_spelt(names: set[str], room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for line, text in literals(path):
            words = {text, text.removeprefix("loss_"), text.removesuffix("_logits")}
            found = words & names - TASKS.get(room, set())
            assert not found, f"{path.relative_to(PACKAGE)}:{line} spells {found}"
