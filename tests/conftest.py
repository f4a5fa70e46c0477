"""Fixtures shared by all tests."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gbw_d2 import passive_waiting  # noqa: F401  # isort: skip  (before torch)

import pytest
import torch

# Two threads on two busy cores wait for each other; one is never slow.
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]


@contextmanager
def _small_disk(size: int) -> Iterator[None]:
    """Lets no file grow beyond so many bytes, as a full disk would.

    For a `with` inside the test: pytest writes to its own output before it takes fixtures down.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    # Python 3.11 keeps the truncated bytecode of a module that is imported meanwhile, and the
    # next import of that module fails.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = before


@pytest.fixture
def small_disk() -> Any:
    """Returns a context manager: bytes -> a disk with room for files of that size only."""
    return _small_disk


@pytest.fixture(scope="session")
def repository() -> Path:
    """Returns the repository's root."""
    return ROOT


@pytest.fixture
def tiny_config() -> Any:
    """Returns a function: overrides -> resolved config of a toy recipe with narrow heads.

    Its ``name`` is a leaf of configs, and may go on with bases that replace the leaf's.
    """
    from gbw_d2.config import load_config
    from gbw_d2.engine.setup import resolve

    def make(*overrides: Any, name: str = "toy/panoptic_gbw") -> Any:
        small = [
            *("MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"),
            *("MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", "32", "UDA.WARM_UP", "0.0"),
        ]
        leaf, *choices = name.split()
        words = [*choices, *small, *map(str, overrides)]
        cfg = load_config(str(ROOT / f"configs/{leaf}.yaml"), words)
        resolve(cfg)
        return cfg

    return make


@pytest.fixture(scope="session")
def toy_datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Writes a toy world of a few small images and yields the folder that holds all datasets."""
    from gbw_d2.toyworld import ToyWorldSettings, write_toy_world

    root = tmp_path_factory.mktemp("datasets")
    settings = ToyWorldSettings(
        image_size=(64, 128), num_source=6, num_target_train=5, num_target_val=3
    )
    write_toy_world(root / "toy", settings, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        yield root


@pytest.fixture
def samples() -> Any:
    """Returns a function: (count, rows, columns, seed) -> random training samples of 16 classes."""

    def make(count: int = 2, rows: int = 32, columns: int = 64, seed: int = 0) -> list[dict]:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.rand(*shape, generator=generator)

        labels = [(draw(rows, columns) * 16).long() for _ in range(count)]
        for label in labels:
            label[: rows // 4] = 255
        return [
            {
                "file_name": f"{i}.png",
                "draw": seed * count + i,
                "image": (draw(3, rows, columns) * 255).to(torch.uint8),
                "image_rows": (torch.arange(rows) + 0.5) / rows,
                "sem_seg": labels[i],
                "center": draw(rows, columns),
                "center_weights": (draw(rows, columns) > 0.3).float(),
                "offset": draw(2, rows, columns) * 8 - 4,
                "offset_weights": (draw(rows, columns) > 0.7).float(),
                "instance_class": labels[i],
            }
            for i in range(count)
        ]

    return make
