"""Every entry point makes OpenMP's threads wait passively, before anything loads torch."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULE = "gbw_d2.passive_waiting"
# Looks for torch before it is loaded, says what OpenMP will find, and ends.
PROBE = """
import os, runpy, sys
class Probe:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Probe())
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[1]))
kind, sys.argv = sys.argv[1], sys.argv[1:]
if kind.endswith(".py"):
    runpy.run_path(kind, run_name="__main__")
else:
    sys.path[0] = os.getcwd()
    runpy.run_module(kind, run_name="__main__")
"""
# Runs without torch, because it reports environments that lack it.
WITHOUT = {"check_env.py"}


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    names = [alias.name for alias in node.names]
    return names if isinstance(node, ast.Import) else [f"{node.module}.{name}" for name in names]


@pytest.mark.parametrize(
    "path",
    [ROOT / "train_net.py", *(p for p in (ROOT / "tools").glob("*.py") if p.name not in WITHOUT)],
    ids=lambda path: path.name,
)
def test_it_is_the_first_import_beyond_the_standard_library(path: Path) -> None:
    modules = [
        name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in imported(node)
        if name.split(".")[0] not in (*sys.stdlib_module_names, "__future__")
    ]
    assert modules[0] == MODULE


@pytest.mark.parametrize("own", [None, "active"])
@pytest.mark.parametrize(
    "command",
    [
        ("train_net.py", "--help"),
        ("tools/benchmark.py", "--help"),
        ("gbw_studies.released_scale", "--help"),
    ],
    ids=lambda command: command[0],
)
def test_torch_finds_it_and_a_users_own_setting_wins(
    command: tuple[str, ...], own: str | None
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if own is not None:
        environment["OMP_WAIT_POLICY"] = own
    run = [sys.executable, "-c", PROBE, *command]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == (own or "passive"), done.stdout + done.stderr


def test_the_package_itself_changes_no_environment() -> None:
    for path in (ROOT / "gbw_d2").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert MODULE not in imported(node), path
