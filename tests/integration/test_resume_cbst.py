"""cbst by one command: killed while it labels or trains, it ends with the same labels."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

# Dies at call number N of a function that writes.
DIE = """
import os, runpy, signal, sys
sys.argv = sys.argv[1:]
{imports}
write, calls = {owner}.{name}, []
def die(self, *args, **kwargs):
    calls.append(1)
    write(self, *args, **kwargs)
    if len(calls) == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
{owner}.{name} = die
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# 5 target images: the third of round 1; the checkpoint in the middle of round 1.
IN_LABELLING = {
    "imports": "from gbw_d2.uda.parts.pseudo_label_files import RoundFiles",
    "owner": "RoundFiles",
    "name": "write_labels",
    "number": 8,
}
IN_TRAINING = {
    "imports": "from gbw_d2.engine.checkpoint import Checkpointer",
    "owner": "Checkpointer",
    "name": "save",
    # One per iteration and one more at the end of the warm-up and of round 0.
    "number": 8,
}


def command(out: Path, *more: str) -> list[str]:
    return [
        *("train_net.py", "--config-file", "configs/toy/semantic_source_only.yaml"),
        *("--num-processes", "1", *more),
        *("--with", "uda/crst_lrent"),
        *("OUTPUT_DIR", str(out), "SOLVER.MAX_ITER", "8", "UDA.CBST.WARM_UP", "0.25"),
        *("UDA.CBST.ROUNDS", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.LOG_PERIOD", "1"),
        *("TEST.EVAL_PERIOD", "0", "EVAL.PICTURES", "0", "INPUT.CROP_SIZE", "(64, 128)"),
        *("SOLVER.WARMUP_ITERS", "1", "DATALOADER.NUM_WORKERS", "0"),
    ]


def run(repository: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=repository, capture_output=True, text=True, timeout=600
    )


def finish(repository: Path, out: Path, *more: str) -> tuple[dict, dict]:
    """Runs to the end; returns the labels' files and the final checkpoint."""
    done = run(repository, command(out, *more))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = out / "pseudo_labels"
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    state = torch.load(out / "model_final.pth", weights_only=True)
    assert state["iteration"] == 7
    return files, state


@pytest.fixture(scope="module")
def whole(repository: Path, toy_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    out = tmp_path_factory.mktemp("whole")
    files, state = finish(repository, out)
    rounds = [json.loads(files[f"round_{n}/round.json"]) for n in (0, 1)]
    assert [r["portion"] for r in rounds] == [0.2, 0.25]
    assert rounds[0]["weights"] != rounds[1]["weights"]
    assert sum(name.endswith(".png") for name in files) == 10
    return files, state, out


@pytest.mark.parametrize("moment", [IN_LABELLING, IN_TRAINING], ids=["labelling", "training"])
def test_killed_and_resumed(
    repository: Path, toy_datasets: Path, tmp_path: Path, whole: tuple, moment: dict
) -> None:
    killed = run(repository, ["-c", DIE.format(**moment), *command(tmp_path)])
    assert killed.returncode == -signal.SIGKILL, killed.stdout[-2000:] + killed.stderr[-2000:]
    left = tmp_path / "pseudo_labels/round_1"
    assert (left / "round.json").exists() == (moment is IN_TRAINING)
    assert len(list(left.rglob("*.png"))) == (5 if moment is IN_TRAINING else 3)
    files, state = finish(repository, tmp_path, "--resume")
    assert files == whole[0]
    for part in ("model", "labeller"):
        assert state[part].keys() == whole[1][part].keys()
        for key, value in state[part].items():
            assert torch.equal(value, whole[1][part][key]), f"{part} {key}"


def test_a_longer_run_goes_on_in_the_round_in_which_it_stood_or_not_at_all(
    repository: Path, toy_datasets: Path, tmp_path: Path, whole: tuple
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole[2], out)
    # Of 16 iterations round 0 would have the 4th to the 10th.
    refused = run(repository, [*command(out, "--resume"), "SOLVER.MAX_ITER", "16"])
    assert refused.returncode == 2, refused.stderr[-2000:]
    last = refused.stderr.splitlines()[-1]
    assert last.startswith("error: --resume: the run stands at iteration 8"), refused.stderr
    assert "stage round_1 from iteration 5 to iteration 10" in last
    assert "Traceback" not in refused.stderr
    longer = run(repository, [*command(out, "--resume"), "SOLVER.MAX_ITER", "9"])
    assert longer.returncode == 0, longer.stdout[-2000:] + longer.stderr[-2000:]
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 8
    folder = out / "pseudo_labels"
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert files == whole[0]
