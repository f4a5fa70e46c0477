"""Two processes with half a batch each train a mask classifier as one does with all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from gbw_d2 import keys
from gbw_d2.config import load_config
from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.engine.setup import resolve
from gbw_d2.engine.trainer import Trainer
from gbw_d2.modeling.targets.slots import SlotTargetGenerator
from gbw_d2.uda import Context, build_strategy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SIZE = (32, 64)
ROAD, CAR = 0, 11
WORDS = [
    *("models/mask2former_tiny", "uda/mask_teacher", "UDA.WARM_UP", "0.0", "MODEL.DEVICE", "cpu"),
    *("MODEL.MASK2FORMER.POINTS", "64", "MODEL.MASK2FORMER.NUM_QUERIES", "12"),
    *("MODEL.MASK2FORMER.CLASS_THRESHOLD", "0.0", "MODEL.MASK2FORMER.OVERLAP_THRESHOLD", "0.0"),
]


def draw(number: int, labelled: bool) -> dict[str, Any]:
    """Draws a sample; each number has its own count of cars, so that halves differ in masks."""
    rng = np.random.default_rng(number)
    segments = np.zeros(SIZE, np.int32)
    segments[12:] = 1
    cars = number % 4
    for car in range(cars):
        segments[16:26, 4 + 15 * car : 14 + 15 * car] = 2 + car
    info = [{"id": 1, "category_id": ROAD, "iscrowd": 0}]
    info += [{"id": 2 + car, "category_id": CAR, "iscrowd": 0} for car in range(cars)]
    classes = np.array([255, ROAD, *[CAR] * cars])[segments]
    labels = {
        keys.SEM_SEG: torch.from_numpy(classes.astype(np.int64)),
        keys.SEGMENTS: torch.from_numpy(segments),
        keys.SEGMENTS_INFO: info,
        **SlotTargetGenerator(16, (CAR,))(classes, segments, info),
    }
    return {
        keys.IMAGE: torch.from_numpy(rng.integers(0, 256, (3, *SIZE), np.uint8)),
        keys.DRAW: number,
        keys.FILE_NAME: f"{number}.png",
        **(labels if labelled else {}),
    }


def same_points(*shape: int, device: Any = None) -> Tensor:
    """Stands in for ``torch.rand``: the same points for each mask and image."""
    generator = torch.Generator().manual_seed(shape[-2])
    return torch.empty(shape[1:]).uniform_(generator=generator).expand(shape).clone()


def train(rank: int, world: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    cfg = load_config(str(ROOT / "configs/toy/panoptic_gbw.yaml"), WORDS)
    resolve(cfg)
    torch.manual_seed(0)
    model = build_model(cfg, build_training_losses(cfg)).train()
    with torch.no_grad():
        model.sem_seg_head.decoder.classifier.bias[-1] = -3.0
    strategy = build_strategy("mask_teacher", model, cfg.UDA, seed=0, max_iter=2000)
    strategy.prepare(strategy.stages()[0], Context(True, Path()))

    def batches() -> Any:
        for step in range(2):
            share = range(4 * step + 4 * rank // world, 4 * step + 4 * (rank + 1) // world)
            yield [draw(i, True) for i in share], [draw(100 + i, False) for i in share]

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", same_points)
        Trainer(model, strategy, batches(), optimizer, 10, 0, schedule_iters=2).train(0, 2)
    modules = {"student": model, "losses": model.weighted_losses, **strategy.modules()}
    return {key: module.state_dict() for key, module in modules.items()}


def _process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(train(rank, 2), f"{folder}/{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    whole = train(0, 1)
    mp.spawn(_process, (str(tmp_path),), nprocs=2)
    assert whole["thresholds"]["values"].max() > 0
    for rank in range(2):
        half = torch.load(tmp_path / f"{rank}.pth")
        for module, state in whole.items():
            for key, value in state.items():
                difference = (value.double() - half[module][key].double()).abs().max()
                assert difference < 1e-4 * (1 + value.double().abs().max()), f"{module} {key}"
