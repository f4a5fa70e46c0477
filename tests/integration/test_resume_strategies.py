"""Four iterations equal two, a kill and two more, for every strategy and its whole state."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from strategies import FOR_ALL

pytestmark = pytest.mark.slow

# Dies as soon as the first checkpoint is written.
DIE_AFTER_A_CHECKPOINT = """
import os, runpy, signal, sys
sys.argv = sys.argv[1:]
from gbw_d2.engine.checkpoint import Checkpointer
save = Checkpointer.save
def save_and_die(self, *args, **kwargs):
    save(self, *args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
Checkpointer.save = save_and_die
runpy.run_path(sys.argv[0], run_name="__main__")
"""


# What a name such as "self_training + masked + hrda" switches on: further draws.
MORE = {
    "masked": ("UDA.MASKED_CONSISTENCY.LOSS_WEIGHT", "1.0"),
    # Of random weights no query is sure, and segments there shall be.
    "queries": (
        *("MODEL.META_ARCHITECTURE", "GBWMask2Former", "MODEL.MASK2FORMER.HIDDEN_DIM", "32"),
        *("MODEL.MASK2FORMER.IN_FEATURES", "('stem', 'res2', 'res3', 'res4')"),
        *("MODEL.MASK2FORMER.POINTS", "64", "MODEL.MASK2FORMER.CLASS_THRESHOLD", "0.0"),
        *("MODEL.MASK2FORMER.DECODER_LAYERS", "2", "MODEL.MASK2FORMER.OVERLAP_THRESHOLD", "0.0"),
        *("MODEL.MASK2FORMER.ENCODER_LAYERS", "1", "MODEL.MASK2FORMER.DROPOUT", "0.1"),
    ),
    "rois": ("MODEL.PANOPTIC_FPN.PSEUDO_LABEL_SCORE", "0.5", "UDA.CVRN.CONSISTENCY_SHARE", "0.75"),
    "pasted": (
        *("UDA.SELF_TRAINING.INSTANCE_MIX_WEIGHT", "1.0", "UDA.SELF_TRAINING.INSTANCE_MIX_SHARE"),
        *("1.0", "UDA.SELF_TRAINING.INSTANCE_MIX_SCORE", "0.0"),
    ),
    "hrda": ("MODEL.META_ARCHITECTURE", "GBWHRDA", "MODEL.HRDA.ATTENTION_CHANNELS", "32"),
    # All that a teacher of random weights detects is an instance.
    "taught": (
        *("UDA.SELF_TRAINING.INSTANCE_PSEUDO_LABELS", "True"),
        *("MODEL.PANOPTIC_FPN.PSEUDO_LABEL_SCORE", "0.0", "TEST.DETECTIONS_PER_IMAGE", "5"),
    ),
}


def command(name: str, out: Path, *more: str) -> list[str]:
    name, *switched = name.split(" + ")
    bases = ("--with", "models/panoptic_fpn_tiny") if "rois" in switched else ()
    return [
        *("train_net.py", "--config-file", "configs/toy/panoptic_source_only.yaml"),
        *("--num-processes", "1", *more, *bases),
        *("UDA.NAME", name, "OUTPUT_DIR", str(out), "SOLVER.MAX_ITER", "4"),
        *("SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.LOG_PERIOD", "1", "TEST.EVAL_PERIOD", "0"),
        *("INPUT.CROP_SIZE", "(64, 128)", "SOLVER.IMS_PER_BATCH", "2", "WEIGHTING.NAME", "gbw"),
        *("WEIGHTING.MOMENTUM", "0.9", "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", "0.2"),
        *("MODEL.AUXILIARY_HEAD.ENABLED", "True", "MODEL.AUXILIARY_HEAD.CHANNELS", "32"),
        *("UDA.WARM_UP", "0.0", "UDA.CBST.ROUNDS", "2"),
        *("SOLVER.WARMUP_ITERS", "1", "DATALOADER.NUM_WORKERS", "0", "EVAL.PICTURES", "0"),
        *(key for switch in switched for key in MORE[switch]),
    ]


def run(repository: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=repository, capture_output=True, text=True, timeout=600
    )


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), f"{path}: {a.keys() ^ b.keys()}"
        return [d for key in a for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        return [d for i in range(len(a)) for d in differences(a[i], b[i], f"{path}/{i}")]
    equal = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if equal else [path]


@pytest.mark.parametrize(
    "name",
    [
        *FOR_ALL,
        "self_training + masked + hrda",
        "cbst + masked",
        "mask_teacher + queries",
        "cvrn + rois",
        "self_training + pasted",
        "self_training + rois + taught",
    ],
)
def test_resume_equals_an_uninterrupted_run(
    repository: Path, toy_datasets: Path, tmp_path: Path, name: str
) -> None:
    whole = run(repository, command(name, tmp_path / "whole"))
    assert whole.returncode == 0, whole.stdout[-2000:] + whole.stderr[-2000:]
    parts = tmp_path / "parts"
    killed = run(repository, ["-c", DIE_AFTER_A_CHECKPOINT, *command(name, parts)])
    assert killed.returncode == -signal.SIGKILL, killed.stdout[-2000:] + killed.stderr[-2000:]
    assert not (parts / "model_final.pth").exists()
    resumed = run(repository, command(name, parts, "--resume"))
    assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr[-2000:]
    a, b = (
        torch.load(folder / "model_final.pth", weights_only=True)
        for folder in (tmp_path / "whole", parts)
    )
    assert a["iteration"] == 3
    assert differences(a, b) == []
