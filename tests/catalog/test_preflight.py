"""Missing data is found from the command line alone, before heavy imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gbw_d2.catalog.preflight import check_data
from gbw_d2.data.spec import DatasetError

REAL = "configs/synthia_panoptic_gbw.yaml"
TOY = "configs/toy/panoptic_gbw.yaml"


@pytest.fixture(autouse=True)
def empty_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.chdir(repository)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["--config-file", REAL], "synthia"),
        ([f"--config-file={REAL}"], "synthia"),
        (["--config-file", REAL, "--eval-only"], "cityscapes"),
        (
            ["--config-file", TOY, "DATASETS.TEST", "('cityscapes_panoptic_val',)"],
            "cityscapes",
        ),
    ],
)
def test_missing_folders(arguments: list[str], missing: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{missing}.*prepare_{missing}"):
        check_data(arguments)
    assert not (tmp_path / "datasets").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        # The toy world is made on the way.
        ["--config-file", TOY],
        # Broken values are the config's to explain.
        ["--config-file", TOY, "DATASETS.TEST", "]"],
    ],
)
def test_the_rest_is_left_to_others(arguments: list[str]) -> None:
    check_data(arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([REAL], "prepare_synthia.py"),
        (["configs/none.yaml"], "config file 'configs/none.yaml' does not exist"),
        ([TOY, "--with", "uda/none_such"], "unknown base 'uda/none_such'"),
        ([TOY, "DATASETS.TRAIN", "('nothing',)"], "unknown dataset 'nothing'"),
    ],
)
def test_the_command_ends_with_2_before_heavy_imports(
    arguments: list[str], told: str, repository: Path, tmp_path: Path
) -> None:
    code = (
        f"import runpy, sys; sys.argv = {['train_net.py', '--config-file', *arguments]}\n"
        "try: runpy.run_path('train_net.py', run_name='__main__')\n"
        "except SystemExit as e: print(e.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository,
        capture_output=True,
        text=True,
        env=dict(os.environ, DETECTRON2_DATASETS=str(tmp_path / "datasets")),
    )
    assert done.stdout.strip() == "2 False", done.stdout + done.stderr
    assert "Traceback" not in done.stderr and told in done.stderr
