"""The names of keys that are read from source files are those of the config itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbw_d2 import key_names
from gbw_d2.config import add_gbw_config
from gbw_d2.key_names import KeyNames, read_key_names

from detectron2.config import CfgNode, get_cfg


def names(node: CfgNode, prefix: str = "") -> tuple[set[str], set[str]]:
    leaves, nodes = set(), set()
    for key, value in node.items():
        if isinstance(value, CfgNode):
            below = names(value, f"{prefix}{key}.")
            leaves, nodes = leaves | below[0], nodes | below[1] | {f"{prefix}{key}"}
        else:
            leaves.add(f"{prefix}{key}")
    return leaves, nodes


def test_the_names_are_those_of_the_config() -> None:
    cfg = get_cfg()
    add_gbw_config(cfg)
    leaves, nodes = names(cfg)
    read = read_key_names()
    assert read is not None
    assert read.leaves == leaves
    assert read.nodes == nodes
    open_nodes = {"MODEL.TIMM.ARGS"}
    assert read.open_nodes == open_nodes
    assert cfg.MODEL.TIMM.ARGS.is_new_allowed()


def test_without_detectron2s_files_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(key_names, "_DETECTRON2", ("config/of_another_version.py",))
    assert read_key_names() is None


def test_unknown_names() -> None:
    known = KeyNames(frozenset({"A.B", "C"}), frozenset({"A", "D"}), frozenset({"D"}))
    content = {"A": {"B": {"any": 1}}, "C": 2, "D": {"what": {"ever": 3}}}
    assert list(known.names_in(content)) == ["A.B", "C", "D.what"]
    assert known.first_unknown(known.names_in(content)) is None
    assert known.first_unknown(["D.what.ever", "A.C", "E"]) == "A.C"
    # A node that is set as a whole exists; the config reports that it needs keys.
    assert known.first_unknown(["A"]) is None
