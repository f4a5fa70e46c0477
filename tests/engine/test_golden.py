"""The first steps of eight toy recipes, as recorded: a rebuild must not move a number.

    uv run python tests/engine/test_golden.py      # records anew; say in CHANGELOG why

The toy world is that of the tests: six source images of 64 x 128 pixels.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from gbw_d2.config import load_config
from gbw_d2.engine.setup import resolve
from gbw_d2.engine.train import train
from gbw_d2.engine.trainer import Trainer
from gbw_d2.toyworld import ToyWorldSettings, write_toy_world

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("golden.json")
SMALL = (
    *("SOLVER.MAX_ITER", "3", "SOLVER.WARMUP_ITERS", "1", "INPUT.CROP_SIZE", "(64, 128)"),
    *("DATALOADER.NUM_WORKERS", "0", "TEST.EVAL_PERIOD", "0", "EVAL.PICTURES", "0"),
    *("MODEL.DEVICE", "cpu", "UDA.WARM_UP", "0.0", "UDA.CBST.WARM_UP", "0.34"),
    *("UDA.CBST.ROUNDS", "1", "UDA.SELF_TRAINING.INSTANCE_PSEUDO_LABELS", "True"),
    # Networks from scratch are sure of nothing; here their pseudo-labels shall count.
    *("UDA.SELF_TRAINING.CONFIDENCE_THRESHOLD", "0.1"),
)
PANOPTIC, SEMANTIC = "configs/toy/panoptic_gbw.yaml", "configs/toy/semantic_gbw.yaml"
# Name -> leaf, strategy, scheme.
RECIPES = {
    "panoptic source_only none": (PANOPTIC, "source_only", "none"),
    "panoptic source_only gbw_balanced": (PANOPTIC, "source_only", "gbw_balanced"),
    "panoptic self_training gbw": (PANOPTIC, "self_training", "gbw"),
    "panoptic max_squares gbw": (PANOPTIC, "max_squares", "gbw"),
    "panoptic cbst gbw_balanced": (PANOPTIC, "cbst", "gbw_balanced"),
    "semantic self_training none": (SEMANTIC, "self_training", "none"),
    "semantic adversarial gbw_balanced": (SEMANTIC, "adversarial", "gbw_balanced"),
    "semantic max_squares gbw_norm": (SEMANTIC, "max_squares", "gbw_norm"),
}


def steps_of(name: str, folder: Path) -> list[dict[str, float]]:
    """Trains a recipe for three steps and returns the losses of each."""
    leaf, strategy, scheme = RECIPES[name]
    own = ("UDA.NAME", strategy, "WEIGHTING.NAME", scheme, "OUTPUT_DIR", str(folder))
    cfg = load_config(str(ROOT / leaf), [*SMALL, *own])
    resolve(cfg)
    folder.mkdir(exist_ok=True)
    steps: list[dict[str, float]] = []
    original = Trainer._log

    def log(trainer: Trainer, step: Any) -> None:
        steps.append({key: float(value) for key, value in step.items()})
        original(trainer, step)

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_log", log)
        train(cfg, resume=False)
    return steps


@pytest.mark.parametrize("name", RECIPES)
def test_the_first_steps_are_as_recorded(name: str, tmp_path: Path, toy_datasets: Path) -> None:
    recorded = json.loads(RECORD.read_text())
    assert recorded.keys() == RECIPES.keys()
    found = steps_of(name, tmp_path / "out")
    assert len(found) == len(recorded[name]) == 3
    for step, expected in zip(found, recorded[name], strict=True):
        assert step == pytest.approx(expected, rel=1e-4, abs=1e-6)


def record() -> None:
    """Writes the losses of all recipes as they are now."""
    torch.set_num_threads(1)
    settings = ToyWorldSettings(
        image_size=(64, 128), num_source=6, num_target_train=5, num_target_val=3
    )
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        write_toy_world(Path(folder) / "toy", settings, workers=1)
        patch.setenv("DETECTRON2_DATASETS", folder)
        found = {name: steps_of(name, Path(folder) / name.replace(" ", "_")) for name in RECIPES}
    temporary = RECORD.with_suffix(".tmp")
    temporary.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(temporary, RECORD)


if __name__ == "__main__":
    record()
