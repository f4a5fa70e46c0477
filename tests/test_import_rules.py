"""Who may import whom (ARCHITECTURE, "Who may import whom"), read from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gbw_d2"

LEAVES = (
    *("gbw_d2.registry", "gbw_d2.keys", "gbw_d2.errors", "gbw_d2.compat", "gbw_d2.keyed_random"),
    *("gbw_d2.label_spaces", "gbw_d2.cityscapes_classes", "gbw_d2.class_tables"),
    *("gbw_d2.settings", "gbw_d2.paths"),
)
TORCH_ONLY = (
    *("torch", "numpy", "cvxopt", "gbw_d2.registry", "gbw_d2.keys", "gbw_d2.errors"),
    *("gbw_d2.settings", "gbw_d2.ops"),
)
# Package -> what it may import of ours, and of others where that is limited too.
ALLOWED = {
    "weighting": (*TORCH_ONLY, "gbw_d2.weighting"),
    "losses": (*TORCH_ONLY, "gbw_d2.weighting", "gbw_d2.losses"),
    "evaluation": (*LEAVES, "gbw_d2.evaluation"),
    "ops": (*LEAVES, "gbw_d2.ops"),
    "data": (*LEAVES, "gbw_d2.data", "gbw_d2.ops"),
    "modeling": (*LEAVES, "gbw_d2.modeling", "gbw_d2.losses", "gbw_d2.weighting", "gbw_d2.ops"),
    "uda": (
        *(*LEAVES, "gbw_d2.uda", "gbw_d2.losses", "gbw_d2.modeling.protocol", "gbw_d2.ops"),
        *("gbw_d2.weighting.distributed", "gbw_d2.weighting.pixels", "gbw_d2.weighting.log"),
    ),
}
# Folders whose files are entries of a registry and do not know each other.
REGISTRY_FOLDERS = ("weighting/schemes", "data/datasets", "modeling/meta_arch", "uda")
SHARED_FILES = {"strategy.py"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from gbw_d2 import keys` imports gbw_d2.keys.
            base = node.module or ""
            names |= {f"{base}.{a.name}" for a in node.names} if base == "gbw_d2" else {base}
    return names


def is_within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


@pytest.mark.parametrize("package", ALLOWED)
def test_package_imports(package: str) -> None:
    allowed = ALLOWED[package]
    limit_all = package in ("weighting", "losses")
    for path in (PACKAGE / package).rglob("*.py"):
        for name in imported(path):
            ours = name.split(".")[0] == "gbw_d2"
            standard = name.split(".")[0] in (*sys.stdlib_module_names, "__future__")
            if ours or (limit_all and not standard):
                assert is_within(name, allowed), f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("folder", REGISTRY_FOLDERS)
def test_registry_files_do_not_import_siblings(folder: str) -> None:
    files = [
        p
        for p in (PACKAGE / folder).glob("*.py")
        if p.name != "__init__.py" and p.name not in SHARED_FILES
    ]
    assert files
    module = "gbw_d2." + folder.replace("/", ".")
    siblings = tuple(f"{module}.{p.stem}" for p in files)
    for path in files:
        found = [n for n in imported(path) if is_within(n, siblings)]
        assert not found, f"{path.relative_to(ROOT)} imports its sibling {found}"


def test_detectron2_comes_after_the_repairs() -> None:
    for path in [*PACKAGE.rglob("*.py"), ROOT / "train_net.py"]:
        names = imported(path)
        if any(n.split(".")[0] == "detectron2" for n in names) and path.name != "compat.py":
            assert "gbw_d2.compat" in names, f"{path.relative_to(ROOT)} misses gbw_d2.compat"


OUTSIDE = ("projects", "studies", "gbw_studies", "tools", "tests")


def test_nothing_imports_projects_studies_tools_or_tests() -> None:
    for path in PACKAGE.rglob("*.py"):
        for name in imported(path):
            assert name.split(".")[0] not in OUTSIDE, path


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("gbw_d2", ("torch", "numpy", "detectron2")),
        ("gbw_d2.label_spaces", ("torch", "detectron2")),
        ("gbw_d2.data.datasets", ("torch", "detectron2")),
        ("gbw_d2.data.toyworld", ("torch", "detectron2")),
    ],
)
def test_light_modules_stay_light(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stdout + out.stderr


def test_train_net_is_short() -> None:
    assert len((ROOT / "train_net.py").read_text().splitlines()) <= 120
