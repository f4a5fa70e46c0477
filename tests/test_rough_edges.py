"""Files that other programmes leave, variables in paths, odd configs, Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gbw_d2.composition import ConfigError, compose
from gbw_d2.config import load_config
from gbw_d2.data.formats.files import list_names
from gbw_d2.data.formats.own.description import OwnSplit, read_description
from gbw_d2.data.formats.own.listing import _find_images
from gbw_d2.data.spec import datasets_root
from gbw_d2.errors import UserError
from gbw_d2.inference.inputs import find_sources

CLUTTER = ("._a.png", ".hidden.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png")


@pytest.fixture
def cluttered(tmp_path: Path) -> Path:
    folder = tmp_path / ".cache" / "photos"  # what lies above is the user's own affair
    for name in ("a.png", "b/c.png", "Thumbs.db", *CLUTTER):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_clutter_is_no_data(cluttered: Path, tmp_path: Path) -> None:
    assert list_names(cluttered, ".png", "") == ["a.png"]
    names = [p.relative_to(cluttered).as_posix() for p in _find_images(OwnSplit(cluttered))]
    assert names == ["a.png", "b/c.png"]
    sources, _ = find_sources([str(cluttered)], tmp_path / "out")
    assert [s.name for s in sources] == ["a", "b/c"]


def test_clutter_that_is_asked_for_by_name_is_read(cluttered: Path, tmp_path: Path) -> None:
    sources, problems = find_sources([str(cluttered / ".hidden.png")], tmp_path / "out")
    assert len(sources) == 1
    assert not problems


def test_paths_of_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    (tmp_path / "base.yaml").write_text("SEED: 3\n")
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("_BASE_: ${HOME}/base.yaml\nOUTPUT_DIR: $RUNS/a\nMODEL: {WEIGHTS: ~/w.pth}\n")
    cfg = load_config(str(leaf))
    assert (3, f"{tmp_path}/runs/a") == (cfg.SEED, cfg.OUTPUT_DIR)
    assert f"{tmp_path}/w.pth" == cfg.MODEL.WEIGHTS
    with pytest.raises(UserError, match=r"OUTPUT_DIR: '\$NOT_SET/a' has \$NOT_SET, which is not"):
        load_config(str(leaf), ["OUTPUT_DIR", "$NOT_SET/a"])


def test_paths_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTOS", str(tmp_path / "photos"))
    monkeypatch.setenv("DETECTRON2_DATASETS", "$PHOTOS/all")
    assert datasets_root() == tmp_path / "photos" / "all"
    file = tmp_path / "data.yaml"
    file.write_text("splits: {a: {images: $PHOTOS/x}}\n")
    assert read_description(file).splits["a"].images == tmp_path / "photos" / "x"
    file.write_text("splits: {a: {images: $NOT_SET/x}}\n")
    with pytest.raises(UserError, match=r"split 'a': .*NOT_SET"):
        read_description(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "sets no key"),
        (b"# nothing\n", "sets no key"),
        (b"- a\n- b\n", "found list"),
        ("SEED: 1\n".encode("utf-16"), "leaf.yaml"),
        (b"OUTPUT_DIR: \xff\xfe\n", "leaf.yaml"),
        (b"_BASE_: leaf.yaml\n", "it is a base of itself"),
        (b"_BASE_: other.yaml\n", "it is a base of itself, by other.yaml"),
        (b"_BASE_: 3\n", "_BASE_ is 3|int"),
    ],
)
def test_odd_configs(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "other.yaml").write_text("_BASE_: leaf.yaml\n")
    (tmp_path / "leaf.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        compose(tmp_path / "leaf.yaml")
    assert "\n" not in str(caught.value)


def test_a_mark_before_utf_8(tmp_path: Path) -> None:
    (tmp_path / "leaf.yaml").write_bytes("SEED: 3\n".encode("utf-8-sig"))
    assert compose(tmp_path / "leaf.yaml") == {"SEED": 3}


def test_ctrl_c(repository: Path, tmp_path: Path) -> None:
    # Stops where the config is read, as a signal then would.
    code = (
        "import os, runpy, signal, sys\n"
        "from gbw_d2.catalog import preflight\n"
        "sys.argv = ['train_net.py', '--config-file', 'configs/toy/panoptic_gbw.yaml']\n"
        # A shell starts background jobs with this signal ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "preflight.check_data = lambda _: signal.raise_signal(signal.SIGINT)\n"
        "runpy.run_path('train_net.py', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (130, 1)
    assert "--resume continues" in done.stderr


def test_a_second_ctrl_c_shows_no_traceback(repository: Path) -> None:
    # The first is handled; the second comes before the program has ended.
    code = (
        "import runpy, signal, sys\n"
        "from gbw_d2 import commands\n"
        "from gbw_d2.catalog import preflight\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "interrupt = lambda *_: signal.raise_signal(signal.SIGINT)\n"
        "preflight.check_data = interrupt\n"
        "outcome = commands.outcome\n"
        "commands.outcome = lambda *words: (outcome(*words), interrupt())[0]\n"
        "sys.argv = ['train_net.py', '--config-file', 'configs/toy/panoptic_gbw.yaml']\n"
        "runpy.run_path('train_net.py', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "stopped\n")


def test_without_the_environment(repository: Path) -> None:
    # -S leaves out site-packages, as another Python than the environment's would.
    command = [
        sys.executable,
        "-S",
        "train_net.py",
        "--config-file",
        "configs/toy/panoptic_gbw.yaml",
    ]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "has no numpy, yaml, torch, detectron2; run `uv run train_net.py" in done.stderr
