"""Target images in memory, and the rounds of cbst on them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gbw_d2 import keys
from gbw_d2.engine.build import build_model
from gbw_d2.modeling import meta_arch  # noqa: F401  (registers them in a spawned process too)
from gbw_d2.uda import Context, build_strategy

COUNT = 5
ROWS, COLUMNS = 32, 64


class OneByOne:
    """Batches that are made when they are drawn, of known number."""

    def __init__(self, numbers: list[int], make: Callable[[int], list[dict[str, Any]]]) -> None:
        self.numbers, self.make = numbers, make

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return map(self.make, self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


class Images:
    """Random target images; reading more than ``limit`` of them raises Ctrl-C's error."""

    def __init__(self, limit: int = 10**6, rank: int = 0, world_size: int = 1) -> None:
        self.limit = limit
        self.share = range(COUNT * rank // world_size, COUNT * (rank + 1) // world_size)
        self.read: list[str] = []

    def ids(self) -> list[str]:
        return [f"city/{i}" for i in range(COUNT)]

    def sample(self, i: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(i)
        # Blocks of colour, so that the network's predictions differ between them.
        coarse = torch.rand(3, ROWS // 4, COLUMNS // 4, generator=generator) * 255
        image = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
        size = {keys.HEIGHT: ROWS, keys.WIDTH: COLUMNS}
        return {keys.IMAGE: image, keys.IMAGE_ID: f"city/{i}", **size}

    def batches(self, skip: Container[str] = ()) -> OneByOne:
        return OneByOne([i for i in self.share if f"city/{i}" not in skip], self._batch)

    def _batch(self, i: int) -> list[dict[str, Any]]:
        if len(self.read) == self.limit:
            raise KeyboardInterrupt
        self.read.append(f"city/{i}")
        return [self.sample(i)]


def strategy_of(cfg: Any, losses: Any = None) -> Any:
    torch.manual_seed(0)
    model = build_model(cfg, losses).train()
    # A network with random weights is never confident; this one is, but never predicts class 3.
    with torch.no_grad():
        model.sem_seg_head.predictor.weight *= 300
        model.sem_seg_head.predictor.bias[3] = -100
    return build_strategy("cbst", model, cfg.UDA, seed=0, max_iter=10)


def prepare(
    strategy: Any, folder: Path, images: Images, fresh: bool = True, stage: int = 0
) -> None:
    context = Context(fresh, folder, target=images, source_positions=positions)
    strategy.prepare(strategy.stages()[stage], context)


def positions() -> np.ndarray:
    counts = np.arange(16)[:, None, None] + np.arange(8)[None, :, None]
    return np.broadcast_to(counts, (16, 8, 8)).copy()


def files_in(folder: Path) -> dict[str, bytes]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def logits_of(strategy: Any) -> torch.Tensor:
    strategy.model.eval()
    with torch.no_grad():
        logits = [strategy.model([Images().sample(i)])[0][keys.SEM_SEG] for i in range(COUNT)]
    strategy.model.train()
    return torch.stack(logits)


def move(strategy: Any) -> None:
    """Changes the network, as training would."""
    with torch.no_grad():
        for parameter in strategy.model.parameters():
            parameter += 0.01
