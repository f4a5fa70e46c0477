"""Missing data and wrong keys are found from the command line alone, before heavy imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gbw_d2.catalog.preflight import LONE_OPTIONS, VALUED_OPTIONS, check_data, check_keys
from gbw_d2.composition import ConfigError
from gbw_d2.data.spec import DatasetError
from gbw_d2.engine.distributed import default_argument_parser

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
        # The run makes the toy world itself.
        ["--config-file", TOY],
        # Broken values are the config's to explain.
        ["--config-file", TOY, "DATASETS.TEST", "]"],
    ],
)
def test_the_rest_is_left_to_others(arguments: list[str]) -> None:
    check_data(arguments)


def test_the_options_are_the_parsers() -> None:
    actions = [a for a in default_argument_parser()._actions if a.option_strings]
    valued = {a.option_strings[0] for a in actions if a.nargs is None}
    assert valued == set(VALUED_OPTIONS)
    assert {a.option_strings[-1] for a in actions if a.nargs == 0} == {*LONE_OPTIONS, "--help"}


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--config-file", TOY, "NO.KEY", "1"], "NO.KEY"),
        ([f"--config-file={TOY}", "--num-gpus", "2", "--check", "NO.KEY", "1"], "NO.KEY"),
        (
            ["--config-file", TOY, "--with", "weighting/none", "SEED", "1", "uda.name", "x"],
            "uda.name",
        ),
        (["--config-file", TOY, "SEED.BELOW", "1"], "SEED.BELOW"),
    ],
)
def test_wrong_keys(arguments: list[str], wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"^command line: unknown config key {wrong}"):
        check_keys(arguments)


def test_a_wrong_key_in_a_file(tmp_path: Path, repository: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"_BASE_: {repository / TOY}\nWEIGHTING:\n  LAMDA: 1\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: unknown config key WEIGHTING.LAMDA; did"):
        check_keys(["--config-file", str(file)])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["NO.KEY", "1"],
        ["--config-file", TOY, "MODEL.TIMM.ARGS.any", "1", "SOLVER.MAX_ITER"],
        # Options that are not there are the parser's to explain.
        ["--config-file", TOY, "--none", "NO.KEY", "1"],
    ],
)
def test_what_is_no_wrong_key(arguments: list[str]) -> None:
    check_keys(arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([REAL], "prepare_synthia.py"),
        (["configs/none.yaml"], "config file 'configs/none.yaml' does not exist"),
        ([TOY, "--with", "uda/none_such"], "unknown base 'uda/none_such'"),
        ([TOY, "DATASETS.TRAIN", "('nothing',)"], "unknown dataset 'nothing'"),
        (
            [TOY, "--resume", "SEED", "1", "SOLVER.MAXITER", "2"],
            "command line: unknown config key SOLVER.MAXITER; did you mean SOLVER.MAX_ITER",
        ),
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
