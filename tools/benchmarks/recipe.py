"""Training steps of a recipe, as its config says, but on random crops in memory.

A step is one of the engine, with the config's network, losses, strategy, optimiser, precision and
parts of a batch. The loader, the log and evaluation are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.composition import split_words
from gbw_d2.config import load_config
from gbw_d2.data.formats.segments import join_segments
from gbw_d2.engine.build import (
    architecture,
    build_model,
    build_precision,
    build_training_losses,
    is_panoptic,
)
from gbw_d2.engine.optimizer import build_optimizer
from gbw_d2.engine.setup import resolve
from gbw_d2.engine.trainer import Trainer
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL, LABEL_SPACES, LabelSpace
from gbw_d2.losses import WeightedLosses
from gbw_d2.uda import Context, build_strategy

from detectron2.layers import CNNBlockBase, FrozenBatchNorm2d
from detectron2.utils.events import EventStorage

Batch = list[dict[str, Any]]
Candidate = Callable[[], None]
# benchmark.report: candidates, repetitions, device, with memory or without -> rows of a table.
Report = Callable[[dict[str, Candidate], int, torch.device, bool], dict[str, dict[str, float]]]

# A label is a grid of this many cells of one class each; an instance is all cells of a class within
# a square group of cells.
_CELLS = (32, 64)
_GROUP = 4
# Iteration of the measured steps and length of the run: after the warm-up, with a slow teacher.
_ITERATION, _ITERATIONS = 1000, 10**6


class TrainingStep:
    """A training step of a config, which is repeated on the same batches.

    Args:
        cfg: the resolved config.
        losses: the weighted losses.
        source: labelled samples.
        target: samples without labels; not used if the strategy's first stage has no target.
        make_optimizer: returns the student's optimiser.
    """

    def __init__(
        self,
        cfg: Any,
        losses: WeightedLosses,
        source: Batch,
        target: Batch,
        make_optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer],
    ) -> None:
        torch.manual_seed(0)
        self.model = build_model(cfg, losses).train()
        _tame(self.model.backbone)
        self.strategy = build_strategy(cfg.UDA.NAME, self.model, cfg.UDA, max_iter=_ITERATIONS)
        self.stage = self.strategy.stages()[0]
        self.strategy.prepare(self.stage, Context(True, Path()))
        self.optimizer = make_optimizer(self.model)
        self.extra = list(self.strategy.optimizers().values())
        pair = (source, target if self.strategy.data(self.stage).with_target else None)
        self.images = (len(source), len(pair[1] or ()))
        self.source = source
        self.trainer = Trainer(
            self.model,
            self.strategy,
            iter(lambda: pair, None),
            self.optimizer,
            cfg.SOLVER.LOG_PERIOD,
            0,
            cfg.SOLVER.GRADIENT_ACCUMULATION,
            build_precision(cfg),
            self.extra,
            _ITERATIONS,
            losses.flags,
        )
        self.trainer.iter, self.trainer.max_iter = _ITERATION, _ITERATIONS
        self.trainer.storage = EventStorage(0)

    def __call__(self) -> None:
        """Runs one step."""
        self.trainer.run_step()
        self.trainer.iter += 1
        # Gradients are freed here, so that the peak of the next call includes them.
        for optimizer in self._optimizers():
            optimizer.zero_grad(set_to_none=True)

    def source_images(self) -> Tensor:
        """Returns the images of the labelled batch as the network gets them."""
        return self.model.images(self.source)

    def held_mb(self) -> float:
        """Returns the memory of networks and optimisers' states between calls, in MB."""
        modules = (self.model, *self.strategy.modules().values())
        states = chain.from_iterable(each.state.values() for each in self._optimizers())
        held = [
            *chain.from_iterable((*m.parameters(), *m.buffers()) for m in modules),
            *chain.from_iterable(state.values() for state in states),
        ]
        return sum(value.nbytes for value in held if isinstance(value, Tensor)) / 2**20

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer, *(each.optimizer for each in self.extra)]


def _tame(backbone: torch.nn.Module) -> None:
    """Reduces what the blocks of an encoder with frozen statistics add to their input.

    With random weights nothing else normalises: each block would double the variance, and the
    features of a deep encoder would become infinite.
    """
    for block in backbone.modules():
        norms = [m for m in block.modules() if isinstance(m, FrozenBatchNorm2d)]
        if isinstance(block, CNNBlockBase) and norms:
            norms[-1].weight.mul_(0.2)


def random_label(
    space: LabelSpace, rows: int, columns: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws a map with every class, with frequencies as uneven as in streets, and void at the top.

    Returns:
        (rows, columns) uint8 class ids, 255 = void.
    """
    shares = np.arange(1, space.num_classes + 1, dtype=float) ** -2
    grid = rng.choice(space.num_classes, size=_CELLS, p=shares / shares.sum())
    grid[:2] = IGNORE_LABEL
    # Below it there is at least one cell of each class.
    grid[2, : space.num_classes] = np.arange(space.num_classes)
    return _magnified(grid, rows, columns).astype(np.uint8)


def random_samples(cfg: Any, count: int) -> Batch:
    """Draws labelled samples of the config's crop size, with instances if it is panoptic."""
    rows, columns = cfg.INPUT.CROP_SIZE
    space, rng = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE), np.random.default_rng(0)
    samples = []
    for number in range(count):
        label = random_label(space, rows, columns, rng)
        sample = {
            keys.FILE_NAME: f"random {number}",
            keys.DRAW: number,
            keys.IMAGE: rng.integers(0, 256, (3, rows, columns), dtype=np.uint8),
            keys.IMAGE_ROWS: (np.arange(rows, dtype=np.float32) + 0.5) / rows,
            keys.SEM_SEG: label.astype(np.int64),
        }
        if is_panoptic(cfg):
            segments, info = _random_segments(label, space)
            sample |= {keys.SEGMENTS: segments, keys.SEGMENTS_INFO: info}
            sample |= architecture(cfg).target_generator(cfg, space)(label, segments, info)
        samples.append({key: _in_memory(value, cfg.MODEL.DEVICE) for key, value in sample.items()})
    return samples


def _magnified(grid: np.ndarray, rows: int, columns: int) -> np.ndarray:
    at = np.ix_(np.arange(rows) * len(grid) // rows, np.arange(columns) * grid.shape[1] // columns)
    return grid[at]


def _random_segments(
    label: np.ndarray, space: LabelSpace
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    groups = np.arange(1, _CELLS[0] * _CELLS[1] // _GROUP**2 + 1)
    instances = _magnified(groups.reshape([n // _GROUP for n in _CELLS]), *label.shape)
    return join_segments(label, instances, space)


def _in_memory(value: Any, device: str) -> Any:
    """Returns a tensor on the host as the loader does, pinned for a GPU."""
    if not isinstance(value, np.ndarray | Tensor):
        return value
    tensor = torch.as_tensor(value)
    return tensor.pin_memory() if device.startswith("cuda") else tensor


def _config(config_file: str, overrides: Sequence[str], device: torch.device, *more: str) -> Any:
    set_here = {"MODEL.DEVICE": "--device", "UDA.WARM_UP": "nothing: the steps are those after it"}
    for key, instead in set_here.items():
        if key in split_words(overrides)[1][::2]:
            raise UserError(f"{key} is set by the benchmark; give {instead}")
    # Without a warm-up, so that the step has all its parts.
    fixed = ["UDA.WARM_UP", "0.0", "MODEL.DEVICE", str(device), *more]
    cfg = load_config(config_file, [*overrides, *fixed])
    resolve(cfg)
    return cfg


def recipe_candidates(
    config_file: str, overrides: Sequence[str], device: torch.device
) -> tuple[dict[str, TrainingStep], str]:
    """Builds a recipe's step without class weights, which is first, and with its own.

    Args:
        config_file: of the recipe.
        overrides: ``KEY VALUE ...``.
        device: where it runs.

    Returns:
        The steps, and a description of them.

    Raises:
        UserError: the config cannot be used, or has no crop size.
    """
    cfg = _config(config_file, overrides, device)
    if len(cfg.INPUT.CROP_SIZE) != 2:
        raise UserError(f"INPUT.CROP_SIZE is {cfg.INPUT.CROP_SIZE}; give (rows, columns)")
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    source = random_samples(cfg, cfg.SOLVER.IMS_PER_BATCH)
    unlabelled = (keys.FILE_NAME, keys.DRAW, keys.IMAGE, keys.IMAGE_ROWS)
    target = [{key: sample[key] for key in unlabelled} for sample in source]
    labels = torch.stack([sample[keys.SEM_SEG] for sample in source])
    classes = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE).num_classes
    counts = labels.flatten().bincount(minlength=256)[:classes]

    def still(model: torch.nn.Module) -> torch.optim.Optimizer:
        # With random labels and no warm-up the recipe's learning rate could lead to NaN.
        optimizer = build_optimizer(cfg, model)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        return optimizer

    steps = {}
    for name, more in {"none": ("WEIGHTING.HEADS", "[]"), cfg.WEIGHTING.NAME: ()}.items():
        weighted = _config(config_file, overrides, device, *more)
        losses = build_training_losses(weighted, counts)
        steps[name] = TrainingStep(weighted, losses, source, target, still)
    return steps, _in_words(cfg, steps["none"])


def _in_words(cfg: Any, step: TrainingStep) -> str:
    rows, columns = cfg.INPUT.CROP_SIZE
    amp = cfg.SOLVER.AMP
    count = len(step.strategy.stages())
    parts = [
        f"{cfg.UDA.NAME}" + (f", stage {step.stage.name} alone" if count > 1 else ""),
        "{} source and {} target images of ".format(*step.images) + f"{rows}x{columns} a step",
        amp.DTYPE if amp.ENABLED else "float32",
        "random weights",
    ]
    return ", ".join(parts)


def run_recipe(
    report: Report,
    repetitions: int,
    device: torch.device,
    config_file: str,
    overrides: Sequence[str],
) -> dict[str, dict[str, dict[str, float]]]:
    """Measures a recipe's steps with its weighting and without.

    ``images_per_s`` counts source and target images. ``share`` is the share of weighting in a step,
    (step - step of none) / step, in per cent. ``peak_mb`` is the largest memory of the device, as
    the allocator counts it.
    """
    steps, words = recipe_candidates(config_file, overrides, device)
    rows = {}
    for name, row in report(steps, repetitions, device, True).items():
        rows[name] = {
            "images_per_s": 1000 * sum(steps[name].images) / row["ms"],
            "ms": row["ms"],
            "share": 100 * (1 - 1 / row["ratio"]),
            "peak_mb": steps[name].held_mb() + row["peak_mb"],
        }
    title = " ".join((Path(config_file).stem, *split_words(overrides)[0]))
    return {f"{title}: {words}": rows}
