"""A killed run that is resumed ends with the weights of one that was not."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gbw_d2.results.reader import read_metrics

pytestmark = pytest.mark.slow

ITERATIONS = 8
# Writes half of the third checkpoint and dies, as `kill -9` in the middle of a write would.
DIE_WHILE_WRITING = """
import os, runpy, signal, sys
sys.argv = sys.argv[1:]
from gbw_d2.engine import checkpoint
whole, calls = checkpoint.torch.save, []
def half(data, path):
    calls.append(path)
    whole(data, path)
    if len(calls) == 3:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.torch.save = half
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def command(out: Path, *more: str) -> list[str]:
    return [
        *("train_net.py", "--config-file", "configs/toy/panoptic_gbw.yaml"),
        *("--num-processes", "1", *more),
        *("OUTPUT_DIR", str(out), "SOLVER.MAX_ITER", str(ITERATIONS)),
        *("SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.LOG_PERIOD", "1", "TEST.EVAL_PERIOD", "0"),
        *("INPUT.CROP_SIZE", "(64, 128)", "SOLVER.IMS_PER_BATCH", "2", "WEIGHTING.MOMENTUM", "0.9"),
        # Dropout, so that the network's own random draws matter too.
        *("MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", "0.2", "DATALOADER.NUM_WORKERS", "1"),
    ]


def finish(repository: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=repository, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def final(out: Path) -> dict:
    state = torch.load(out / "model_final.pth", weights_only=True)
    assert state["iteration"] == ITERATIONS - 1
    return state


def assert_equal(a: dict, b: dict) -> None:
    for part in ("model", "weighted_losses"):
        assert a[part].keys() == b[part].keys()
        for key, value in a[part].items():
            assert torch.equal(value, b[part][key]), f"{part} {key}"


@pytest.fixture(scope="module")
def uninterrupted(
    repository: Path, toy_datasets: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict:
    out = tmp_path_factory.mktemp("whole")
    finish(repository, command(out))
    return final(out)


def test_two_runs_with_one_seed_are_equal(
    repository: Path, toy_datasets: Path, tmp_path: Path, uninterrupted: dict
) -> None:
    # Other loader workers, same samples.
    finish(repository, [*command(tmp_path), "DATALOADER.NUM_WORKERS", "0"])
    assert_equal(final(tmp_path), uninterrupted)


def test_killed_at_random_moments(
    repository: Path, toy_datasets: Path, tmp_path: Path, uninterrupted: dict
) -> None:
    moments = random.Random(0)
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, *command(tmp_path, "--resume")],
            cwd=repository,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        before = set(tmp_path.glob("model_*.pth"))
        deadline = time.monotonic() + 300
        # Let it get past at least one checkpoint of its own, so that there is progress to lose.
        while not set(tmp_path.glob("model_*.pth")) - before and time.monotonic() < deadline:
            assert process.poll() is None or process.returncode == 0
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 1.0))
        with contextlib.suppress(ProcessLookupError):  # it may have come to its end
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finish(repository, command(tmp_path, "--resume"))
    assert_equal(final(tmp_path), uninterrupted)


def test_killed_while_the_last_file_is_written(
    repository: Path, toy_datasets: Path, tmp_path: Path, uninterrupted: dict
) -> None:
    finish(repository, command(tmp_path))
    (tmp_path / "model_final.pth").rename(tmp_path / ".model_final.pth.tmp")
    (tmp_path / "last_checkpoint").write_text(f"model_{ITERATIONS - 1:07d}.pth")
    finish(repository, command(tmp_path, "--resume"))
    assert_equal(final(tmp_path), uninterrupted)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_killed_while_a_checkpoint_is_written(
    repository: Path, toy_datasets: Path, tmp_path: Path, uninterrupted: dict
) -> None:
    died = subprocess.run(
        [sys.executable, "-c", DIE_WHILE_WRITING, *command(tmp_path)],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    assert list(tmp_path.glob("*.tmp")), "the half-written file is under its temporary name"
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    finish(repository, command(tmp_path, "--resume"))
    assert_equal(final(tmp_path), uninterrupted)


# Dies in the first evaluation, whose checkpoint has been written.
DIE_WHILE_EVALUATING = """
import os, runpy, signal, sys
sys.argv = sys.argv[1:]
from gbw_d2.engine import train
train.evaluate = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_an_evaluation_that_a_kill_interrupted_is_made(
    repository: Path, toy_datasets: Path, tmp_path: Path, uninterrupted: dict
) -> None:
    arguments = [*command(tmp_path, "--resume"), "TEST.EVAL_PERIOD", "2"]
    killed = subprocess.run(
        [sys.executable, "-c", DIE_WHILE_EVALUATING, *arguments], cwd=repository
    )
    assert killed.returncode == -signal.SIGKILL
    assert not [e for e in read_metrics(tmp_path / "metrics.json") if "mIoU_16" in e]
    finish(repository, arguments)
    found = [e["iteration"] for e in read_metrics(tmp_path / "metrics.json") if "mIoU_16" in e]
    assert found == [1, 3, 5, 7]
    assert_equal(uninterrupted, final(tmp_path))
    # The last evaluation is made up for in the same way, and only once.
    metrics = tmp_path / "metrics.json"
    rest = [e for e in read_metrics(metrics) if e["iteration"] < ITERATIONS - 1]
    metrics.write_text("".join(json.dumps(entry) + "\n" for entry in rest))
    for _ in range(2):
        finish(repository, arguments)
        found = [e["iteration"] for e in read_metrics(metrics) if "mIoU_16" in e]
        assert found == [1, 3, 5, 7]
