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


def command(
    repository: Path,
    *arguments: str,
    launcher: tuple[str, ...] = (),
    script: str = "train_net.py",
    processes: int = 1,
) -> str:
    """Runs a script, expects success, and returns what it printed."""
    start = list(launcher) or [sys.executable]
    if script == "train_net.py":
        arguments = ("--num-processes", str(processes), *arguments)
    done = subprocess.run(
        [*start, script, *arguments],
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
    settings = (*SHORT, *SMALL, "OUTPUT_DIR", str(out), "TEST.SAVE_PREDICTIONS", "True")
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
    expected = {("semantic", "source"): 16.0}
    if name == "panoptic_gbw":  # two terms, and weights of the 6 things for the centres
        expected |= {("semantic", "mixed"): 16.0}
        expected |= {(head, "source"): 6.0 for head in ("center", "offset")}
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        key = (row["head"], row["term"])
        found[key] = found.get(key, 0) + float(row["weight"])
    assert found == pytest.approx(expected, abs=1e-3)
    saved = list((out / "predictions").rglob("panoptic.json"))
    assert len(saved) == (name == "panoptic_gbw")

    command(repository, str(out), script="tools/report.py")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Worst images" in page and page.count("data:image/jpeg") == 3

    again = tmp_path / "again"
    evaluation = ("--eval-only", *SMALL, "OUTPUT_DIR", str(again))
    weights = ("MODEL.WEIGHTS", str(out / "model_final.pth"))
    command(repository, *arguments, *evaluation, *weights)
    assert results(again)["metrics"] == trained["metrics"]
    assert results(again)["run"]["iterations"] == 4


def test_two_processes_equal_one(repository: Path, toy_datasets: Path, tmp_path: Path) -> None:
    def run(folder: str, processes: int = 1, launcher: tuple[str, ...] = ()) -> dict:
        out = tmp_path / folder
        command(
            repository,
            *("--config-file", "configs/toy/panoptic_gbw.yaml", *SHORT, *SMALL),
            *("OUTPUT_DIR", str(out), "SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "0.01"),
            # The absolute error's slope jumps at 0, where rounding decides.
            *("MODEL.INS_EMBED_HEAD.OFFSET_LOSS_WEIGHT", "0.0"),
            launcher=launcher,
            processes=processes,
        )
        return torch.load(out / "model_final.pth", weights_only=True)["model"]

    one, two = run("one"), run("two", processes=2)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    torchruns = run("torchruns", launcher=torchrun)
    for key, value in one.items():
        assert torch.allclose(two[key], value, atol=1e-5), key
        assert torch.equal(two[key], torchruns[key]), key
    single, double = results(tmp_path / "one"), results(tmp_path / "two")
    assert double["metrics"]["mIoU_16"] == pytest.approx(single["metrics"]["mIoU_16"], abs=0.5)
    assert (single["run"]["processes"], double["run"]["processes"]) == (1, 2)


def test_the_teacher_is_scored_on_request_and_the_best_is_named(
    repository: Path, toy_datasets: Path, tmp_path: Path
) -> None:
    recipe = ("--config-file", "configs/toy/semantic_gbw.yaml", "--with", "weighting/none")
    arguments = (*recipe, *SHORT, *SMALL)
    asked = ("EVAL.BEST_ON", "mIoU_16", "TEST.EVAL_PERIOD", "2")
    precision = ("SOLVER.AMP.ENABLED", "True", "SOLVER.GRADIENT_ACCUMULATION", "2")
    command(repository, *arguments, *asked, *precision, "OUTPUT_DIR", str(tmp_path))
    student = results(tmp_path)
    assert student["run"]["selection"] == "last iteration"
    best = student["run"]["best_on_target_labels"]
    assert best["value"] >= student["metrics"]["mIoU_16"]
    assert (tmp_path / "model_best_on_target_labels.pth").is_file()
    names = ("toy_cityscapes_semantic_val", "toy_cityscapes_semantic_train")
    again = ("--eval-only", "--resume", *arguments, "EVAL.WEIGHTS", "teacher")
    again = (*again, "DATASETS.TEST", str(names))
    command(repository, *again, "OUTPUT_DIR", str(tmp_path))
    assert results(tmp_path)["run"]["weights"] == "teacher"
    assert tuple(results(tmp_path)["datasets"]) == names
    assert (tmp_path / names[1] / "semantic_per_image.csv").is_file()
    assert results(tmp_path)["metrics"] != student["metrics"]


def test_mistakes_exit_with_2_and_no_traceback(repository: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "train_net.py", "--config-file", "configs/toy/panoptic_gbw.yaml"),
            *("--num-processes", "2", "WEIGHTING.NAME", "gwb", "OUTPUT_DIR", str(tmp_path)),
        ],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    # Two processes find it, one says it.
    assert done.stderr.count("unknown weighting scheme 'gwb'; did you mean 'gbw'?") == 1
