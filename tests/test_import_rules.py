"""Who may import whom (ARCHITECTURE, "Who may import whom"), read from the syntax trees."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gbw_d2"

# Small files that any room may import. They stand at the bottom, and in this order.
LEAVES = (
    *("errors", "keys", "keyed_random", "compat", "passive_waiting", "start_up"),
    "cityscapes_classes",
    "commands",
    *(
        "paths",
        "plain_files",
        "former_names",
        "settings",
        "registry",
        "composition",
        "key_names",
        "label_spaces",
        "class_tables",
    ),
)
# Room -> what of ours it may import beside itself. Each room comes after those that it imports,
# so that the table itself has no circle. Where it differs from ARCHITECTURE, section 3: `config`
# reads the schemes' settings, which are where their keys are declared; `visualization` is drawing
# for evaluation, engine and inference.
ROOMS: dict[str, tuple[str, ...]] = {
    "files": ("errors",),
    "ops": ("label_spaces",),
    "weighting": ("errors", "former_names", "keys", "registry", "settings", "ops"),
    "losses": ("errors", "former_names", "keys", "registry", "settings", "ops", "weighting"),
    "visualization": ("label_spaces", "files"),
    "cvrn_keys": ("compat",),
    "mask2former_keys": ("compat",),
    "self_training_keys": ("compat",),
    "config": (
        *("errors", "compat", "paths", "settings", "composition", "key_names", "weighting"),
        "mask2former_keys",
        "cvrn_keys",
        "self_training_keys",
    ),
    "ranges": ("composition", "settings"),
    "unread_keys": ("compat", "config"),
    "results": ("errors", "compat", "plain_files", "files"),
    "data": (*LEAVES, "files", "ops"),
    "toyworld": (*LEAVES, "files", "data"),
    "catalog": (*LEAVES, "files", "data", "toyworld"),
    "evaluation": (*LEAVES, "files", "results", "data"),
    "modeling": (*LEAVES, "files", "ops", "weighting", "losses"),
    "uda": (
        *(*LEAVES, "files", "ops", "losses", "modeling.protocol", "modeling.capabilities"),
        *("weighting.distributed", "weighting.pixels", "weighting.log"),
    ),
    "engine": (
        *(*LEAVES, "files", "ops", "weighting", "losses", "visualization", "config", "results"),
        *("data", "catalog", "evaluation", "modeling", "uda", "ranges", "unread_keys"),
    ),
    "inference": (
        *(*LEAVES, "files", "ops", "visualization", "config", "data", "modeling", "engine"),
    ),
}
# These work where Detectron2 is not installed.
TORCH_ONLY = ("torch", "triton", "numpy", "cvxopt", "gbw_d2")
# Folders whose files are entries of a registry and do not know each other.
REGISTRY_FOLDERS = (
    *("weighting/schemes", "catalog", "toyworld/layouts", "modeling/meta_arch", "uda"),
)
SHARED_FILES = {
    "strategy.py",
    "stages.py",
    "registration.py",
    "lookup.py",
    "preflight.py",
    "base.py",
}
MOST_LINES = 400


def name_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> set[str]:
    """Every import of a file, those within functions too; ours as names of modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            # `from gbw_d2 import keys` imports gbw_d2.keys.
            full = {f"{base}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else base for name in full}
    return names


def is_within(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


def test_every_file_belongs_to_a_room() -> None:
    rooms = {name.split(".")[1] for name in MODULES if name != "gbw_d2"}
    assert rooms == {*LEAVES, *ROOMS}


@pytest.mark.parametrize("room", [*LEAVES, *ROOMS])
def test_a_room_imports_only_what_is_below(room: str) -> None:
    allowed = (*ROOMS.get(room, LEAVES[: LEAVES.index(room)] if room in LEAVES else ()), room)
    prefixes = [f"gbw_d2.{name}" for name in allowed]
    for name, path in MODULES.items():
        if is_within(name, [f"gbw_d2.{room}"]):
            ours = {n for n in imported(path) if n.split(".")[0] == "gbw_d2"}
            wrong = {n for n in ours if not is_within(n, prefixes)}
            assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_the_table_of_rooms_goes_downwards() -> None:
    order = [*LEAVES, *ROOMS]
    for room, allowed in ROOMS.items():
        for name in allowed:
            below = name.split(".")[0]
            assert order.index(below) < order.index(room), f"{room} is not above {below}"


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Returns the groups of two or more modules that reach each other."""
    left = {name: set(targets) & set(arrows) - {name} for name, targets in arrows.items()}

    def reach(start: str) -> set[str]:
        found: set[str] = set()
        todo = [start]
        while todo:
            new = left[todo.pop()] - found
            found |= new
            todo += new
        return found

    reached = {name: reach(name) for name in left}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in left
        if name in reached[name]
    }
    return sorted(map(list, groups))


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_no_circle_anywhere() -> None:
    assert circles({name: imported(path) for name, path in MODULES.items()}) == []


@pytest.mark.parametrize("room", ["weighting", "losses"])
def test_losses_and_weighting_need_torch_alone(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            known = (*sys.stdlib_module_names, *TORCH_ONLY)
            assert top in known, f"{path.relative_to(ROOT)} imports {name}"


def test_files_are_short() -> None:
    folders = ("gbw_d2", "gbw_studies", "tools", "datasets")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in files}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


@pytest.mark.parametrize("folder", ("gbw_d2", "gbw_studies", "tools", "datasets"))
def test_files_are_renamed_in_one_place(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        if path != PACKAGE / "files/atomic.py":
            found = re.findall(r"os\.(?:replace|rename)\(|\btemporary\.replace\(", path.read_text())
            assert not found, f"{path.relative_to(ROOT)}: use gbw_d2.files.atomic"


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


def test_nothing_but_the_studies_imports_the_studies() -> None:
    files = [path for folder in ("tools", "datasets") for path in (ROOT / folder).rglob("*.py")]
    for path in [*files, ROOT / "train_net.py"]:
        assert not any(name.split(".")[0] == "gbw_studies" for name in imported(path)), path


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("gbw_d2", ("torch", "numpy", "detectron2")),
        ("gbw_d2.label_spaces", ("torch", "detectron2")),
        ("gbw_d2.catalog.preflight", ("torch", "detectron2")),
        ("gbw_d2.toyworld", ("torch", "detectron2")),
    ],
)
def test_light_modules_stay_light(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stdout + out.stderr


def test_train_net_is_short() -> None:
    assert len((ROOT / "train_net.py").read_text().splitlines()) <= 120
