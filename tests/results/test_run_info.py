"""What a result records about its run."""

from __future__ import annotations

import re

import torch

from gbw_d2.results import run_info as module
from gbw_d2.results.run_info import RUN_KEYS, git_commit, run_info


def run():
    return run_info({"SEED": 1, "SOLVER": {"STEPS": (1, 2)}}, 1, 20, 3.5, "cpu")


def test_run_info():
    info = run()
    assert tuple(info) == RUN_KEYS
    assert (info["seed"], info["iterations"], info["wall_seconds"]) == (1, 20, 3.5)
    assert info["device"] == "cpu"
    assert info["torch"] == torch.__version__
    # A process that has imported torch holds tens of MiB and less than a TiB: the unit is right.
    assert 50 < info["peak_memory_mb"] < 2**20
    assert re.fullmatch("[0-9a-f]{16}", info["config_hash"])
    assert run()["config_hash"] == info["config_hash"]
    assert run_info("SEED: 2", 2, 0, 0, "cpu")["config_hash"] != info["config_hash"]


def test_git_commit_of_no_clone_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "run_info.py"))
    assert git_commit() is None
