"""The newcomer's command on a small toy world, end to end."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SHORT = ("SOLVER.MAX_ITER", "4", "SOLVER.LOG_PERIOD", "2", "TEST.EVAL_PERIOD", "0")
SMALL = ("INPUT.CROP_SIZE", "(64, 128)", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "1")


def command(repository: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> str:
    """Runs train_net.py, expects success, and returns what it printed."""
    start = list(launcher) or [sys.executable]
    done = subprocess.run(
        [*start, "train_net.py", *arguments],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=600,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("name", ["panoptic_gbw", "semantic_oracle"])
def test_train_then_eval_only_agree(
    repository: Path, toy_datasets: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    arguments = ("--config-file", f"configs/toy/{name}.yaml")
    settings = (*SHORT, *SMALL, "OUTPUT_DIR", str(out))
    printed = command(repository, *arguments, *settings)
    assert "mIoU" in printed and ("PQ_th" in printed) == (name == "panoptic_gbw")
    trained = results(out)
    assert trained["run"]["iterations"] == 4 and trained["run"]["seed"] == 0
    assert ("PQ_16" in trained["metrics"]) == (name == "panoptic_gbw")
    for file in ("metrics.json", "per_class.csv", "config.yaml", "pictures/iteration_0000004.png"):
        assert (out / file).stat().st_size > 0
    assert list((out / "tensorboard").glob("events*"))
    with (out / "class_weights.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["iteration"] == "4"]
    assert sum(float(r["weight"]) for r in rows) == pytest.approx(16, abs=1e-3)

    again = tmp_path / "again"
    evaluation = ("--eval-only", *SMALL, "OUTPUT_DIR", str(again))
    weights = ("MODEL.WEIGHTS", str(out / "model_final.pth"))
    command(repository, *arguments, *evaluation, *weights)
    assert results(again)["metrics"] == trained["metrics"]
    assert results(again)["run"]["iterations"] == 4


def test_two_processes_equal_one(repository: Path, toy_datasets: Path, tmp_path: Path) -> None:
    def run(folder: str, launcher: tuple[str, ...]) -> dict:
        out = tmp_path / folder
        command(
            repository,
            *("--config-file", "configs/toy/panoptic_gbw.yaml", *SHORT, *SMALL),
            *("OUTPUT_DIR", str(out), "SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "0.01"),
            launcher=launcher,
        )
        return torch.load(out / "model_final.pth", weights_only=True)["model"]

    one = run("one", ())
    two = run("two", (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"))
    for key, value in one.items():
        assert torch.allclose(two[key], value, atol=1e-5), key
    single, double = results(tmp_path / "one"), results(tmp_path / "two")
    assert double["metrics"]["mIoU_16"] == pytest.approx(single["metrics"]["mIoU_16"], abs=0.5)


def test_min_entropy_uses_the_target(repository: Path, toy_datasets: Path, tmp_path: Path) -> None:
    printed = command(
        repository,
        *("--config-file", "configs/toy/semantic_gbw.yaml", *SHORT, *SMALL),
        *("OUTPUT_DIR", str(tmp_path / "out"), "UDA.NAME", "min_entropy"),
    )
    assert "loss_entropy" in printed


def test_mistakes_exit_with_2_and_no_traceback(repository: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "train_net.py", "--config-file", "configs/toy/panoptic_gbw.yaml"),
            *("WEIGHTING.NAME", "gwb", "OUTPUT_DIR", str(tmp_path)),
        ],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "unknown weighting scheme 'gwb'; did you mean 'gbw'?" in done.stderr
