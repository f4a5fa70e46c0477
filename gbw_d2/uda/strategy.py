"""What an adaptation strategy is, and the registry of strategies."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.errors import UserError
from gbw_d2.keyed_random import keyed_rng
from gbw_d2.modeling.protocol import Losses, Outputs, SegmentationModel, Targets
from gbw_d2.registry import Registry
from gbw_d2.uda.parts.masked_consistency import MaskedConsistency
from gbw_d2.weighting.log import WeightLog

Batch = Sequence[dict[str, Any]]

STRATEGIES: Registry[type[Strategy]] = Registry("adaptation strategy (UDA.NAME)")

# Entry of a target sample of a stage with pseudo-labels: a dictionary of label entries, apart from
# the sample's own, so that they are never taken for the target's labels.
PSEUDO_LABELS = "pseudo_labels"


@dataclass(frozen=True)
class Stage:
    """A part of a run with data, a schedule and an optimiser state of its own.

    Args:
        name: of the stage, for logs and files.
        first: its first iteration, counted over the whole run.
        last: the iteration after its last one.
        lr_factor: factor of all learning rates of the student in this stage.
    """

    name: str
    first: int
    last: int
    lr_factor: float = 1.0


@dataclass(frozen=True)
class PseudoLabels:
    """Labels of target images that a strategy has written.

    Args:
        folder: holds ``<image id>.png``, 8 bit train ids, 255 = ignore, at any size.
        image_ids: the target images that are drawn, each with its file.
        class_pixels: (images, K) labelled pixels by class id, in the order of ``image_ids``.
        instance_folder: holds ``<image id>.png`` of the same size, 16 bit train id x 1000 + number
            of the instance, from 1; 0 = none. None where there are semantic labels alone.
    """

    folder: Path
    image_ids: Sequence[str]
    class_pixels: np.ndarray
    instance_folder: Path | None = None


@dataclass(frozen=True)
class Mining:
    """Crops that should show a rare class, in the source and among the pseudo-labels.

    Args:
        probability: of an image to be asked for one, 0..1.
        first: class ids that are asked for where the image shows one of them ...
        second: ... and those that are asked for where it does not.
    """

    probability: float
    first: Sequence[int]
    second: Sequence[int]


@dataclass(frozen=True)
class StageData:
    """What a stage draws from source and target; the engine builds its loaders from it.

    Args:
        with_target: target images are drawn; without them a step's target is None.
        source_portion: share of the source images that are drawn, in (0, 1]; a greater share holds
            the images of a smaller one.
        pseudo_labels: target images come with these, under :data:`PSEUDO_LABELS`.
        mining: which crops are drawn again until they show a class.
    """

    with_target: bool
    source_portion: float = 1.0
    pseudo_labels: PseudoLabels | None = None
    mining: Mining | None = None


class TargetImages(Protocol):
    """The target's images as they are at test time; no sample holds or names a label."""

    def ids(self) -> Sequence[str]:
        """Returns the image ids of all of them, for every process the same."""
        ...

    def batches(self, skip: Container[str] = ()) -> Iterable[Batch]:
        """Yields this process's share, one image per batch.

        Args:
            skip: ids of images that are left out, and not even read.
        """
        ...


class NoImages:
    """A target without images, for strategies that look at none."""

    def ids(self) -> Sequence[str]:
        """See :class:`TargetImages`."""
        return ()

    def batches(self, skip: Container[str] = ()) -> Iterable[Batch]:
        """See :class:`TargetImages`."""
        return ()


def _no_positions() -> np.ndarray:
    raise ValueError("the source's labels were not handed in")


@dataclass(frozen=True)
class Context:
    """What a strategy may use when it prepares a stage.

    Args:
        fresh: True where none of the stage's iterations has been done, False on a resumed one.
        folder: OUTPUT_DIR, for files that must outlive the process; all processes see it.
        is_main: True in the one process that writes what is there once.
        target: the target's images.
        source_positions: returns (K, h, w) labelled source pixels by class id and place; every
            process must call it.
    """

    fresh: bool
    folder: Path
    is_main: bool = True
    target: TargetImages = field(default_factory=NoImages)
    source_positions: Callable[[], np.ndarray] = _no_positions


@dataclass(frozen=True)
class ExtraOptimizer:
    """An optimiser beside the student's, for instance a discriminator's.

    Args:
        module: whose parameters it steps; one of the strategy's ``modules``.
        optimizer: over these parameters.
        lr_factor: share of the learning-rate schedule that is done, 0..1 -> factor of its rates.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    lr_factor: Callable[[float], float]


@dataclass(frozen=True)
class RunSettings:
    """What a strategy may know of the run.

    Args:
        seed: of all its random draws, SEED.
        max_iter: iterations of the whole run, SOLVER.MAX_ITER.
        warm_up: share of them, 0..1, before the first loss on the target, UDA.WARM_UP.
        masked: what UDA.MASKED_CONSISTENCY asks for, None where it is off.

    Raises:
        UserError: a share out of range.
    """

    seed: int = 0
    max_iter: int = 1
    warm_up: float = 0.0
    masked: MaskedConsistency | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up <= 1:
            raise UserError(f"UDA.WARM_UP is {self.warm_up}; expected a share of the run, 0..1")


class Strategy:
    """Says what a training step computes from a source batch and a target batch.

    Args:
        model: the student; seen through :class:`SegmentationModel` only.
        settings: the strategy's own config node, ``UDA.<NAME>``, or None where it has none.
        run: what it may know of the run.

    Attributes:
        needs_target: True: the trainer draws target images and stops where DATASETS.TARGET is
            empty.
        terms: names of its loss terms with class labels; weighting keeps state for each.
        has_pseudo_labels: True: where ``masked`` is not None it yields ``masked_losses`` too.
        asks_for: what the network must be able to do beside :class:`SegmentationModel`, by the
            names of methods of gbw_d2/modeling/capabilities.py.
        masked: what hides blocks of target pictures, None where masked consistency is off.
        weight_log: what the weighted losses of the last step used.
    """

    needs_target = False
    terms: tuple[str, ...] = (keys.TERM_SOURCE,)
    has_pseudo_labels = False
    asks_for: tuple[str, ...] = ()

    def __init__(
        self, model: SegmentationModel, settings: Any, run: RunSettings | None = None
    ) -> None:
        run = run or RunSettings()
        self.model = model
        self.settings = settings
        self.seed = run.seed
        self.max_iter = run.max_iter
        self.warm_up = run.warm_up
        self.masked = run.masked
        self.weight_log = WeightLog()

    @classmethod
    def loss_terms(cls, settings: Any) -> tuple[str, ...]:
        """Names the loss terms with class labels under settings, the node ``UDA.<NAME>``."""
        return cls.terms

    def stages(self) -> Sequence[Stage]:
        """Returns the run's stages in order; together they cover iterations 0 .. max_iter - 1."""
        return [Stage("training", 0, self.max_iter)]

    def marks(self) -> dict[str, int]:
        """Says what begins when: in words -> first iteration.

        Most follow from shares of SOLVER.MAX_ITER. A run that is resumed with other keys must have
        begun what it had begun before, and nothing else (gbw_d2/engine/resume.py).
        """
        marks = stage_marks(self.stages())
        if self.needs_target and self.warm_up > 0:
            marks["learning from the target (UDA.WARM_UP)"] = math.ceil(
                self.warm_up * self.max_iter
            )
        return marks

    def prepare(self, stage: Stage, context: Context) -> None:
        """Does what must be done before a stage's iterations, also where it is resumed.

        The student holds its initial weights, the checkpoint's, or those of the stage before.
        """

    def data(self, stage: Stage) -> StageData:
        """Says what a stage draws; asked after :meth:`prepare`."""
        return StageData(self.needs_target)

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields dictionaries of losses; backward runs on each before the next is asked for.

        Args:
            source: labelled samples.
            target: samples without labels, None for stages that draw none.
            iteration: 0-based step.
        """
        raise NotImplementedError

    def after_step(self, iteration: int) -> None:
        """Runs after the optimisers' steps, for instance to update a teacher."""

    def networks(self) -> dict[str, nn.Module]:
        """Names the networks that may be scored (``EVAL.WEIGHTS``); "student" is always there."""
        return {"student": module_of(self.model)}

    def modules(self) -> dict[str, nn.Module]:
        """Names the networks beside the student whose weights are kept in checkpoints."""
        return {}

    def optimizers(self) -> dict[str, ExtraOptimizer]:
        """Names the optimisers beside the student's; their state is kept in checkpoints."""
        return {}

    def adapts(self, iteration: int) -> bool:
        """True from the end of the warm-up on."""
        return iteration >= self.warm_up * self.max_iter

    def supervised_losses(self, source: Batch) -> Losses:
        """Returns the losses of a labelled batch; nothing else of the pass is kept in memory."""
        return self.source_pass(source)[0]

    def source_pass(self, source: Batch) -> tuple[Losses, Outputs]:
        """Runs the student on a labelled batch: the part that all strategies share.

        Returns:
            the supervised losses, and the outputs that they come from.
        """
        outputs = self.outputs(source)
        targets = self.model.targets(source)
        losses = self.model.losses(outputs, targets, None, keys.TERM_SOURCE, self.weight_log)
        return losses, outputs

    def outputs(self, batch: Batch, instances: bool = True) -> Outputs:
        """Runs the student on a batch.

        Args:
            batch: samples of source or target.
            instances: False leaves out what only instances need.
        """
        images = self.model.images(batch)
        features = self.model.features(images, self.network_draws(batch))
        return self.model.outputs(features, image_size(images), instances)

    def masked_losses(
        self, target: Batch, images: Tensor, targets: Targets, pixel_weights: Tensor | None
    ) -> Losses:
        """Returns the student's losses on masked target images, named ``masked_...``.

        Args:
            target: the samples; each draws its own mask.
            images: (N, 3, H, W) of them, normalised, augmented or not.
            targets: pseudo-labels of the images as they were before.
            pixel_weights: (N, H, W) of the pseudo-labels, None for 1.
        """
        assert self.masked is not None
        seen = self.masked.draw(self.generators("masked blocks", target), image_size(images))
        hidden = self.masked.apply(images, seen.to(images.device, non_blocking=True))
        features = self.model.features(hidden, self.network_draws(target, keys.TERM_MASKED))
        outputs = self.model.outputs(features, image_size(images), targets.has_instances)
        losses = self.model.losses(
            outputs, targets, pixel_weights, keys.TERM_MASKED, self.weight_log
        )
        return {f"masked_{name}": self.masked.loss_weight * v for name, v in losses.items()}

    def network_draws(
        self, batch: Batch, term: str = keys.TERM_SOURCE
    ) -> list[np.random.Generator]:
        """Returns the generators of networks that draw crops of their own, one per sample.

        Args:
            batch: of which the images are, or were made.
            term: which images these are (``keys.TERM_*``); those of two terms are independent.
        """
        return self.generators(f"network {term}", batch)

    def generators(self, purpose: str, batch: Batch) -> list[np.random.Generator]:
        """Returns one generator per sample, keyed by (seed, purpose, draw of the sample).

        Draws then do not depend on how many processes share a batch.
        """
        return [keyed_rng(self.seed, purpose, sample[keys.DRAW]) for sample in batch]


def stage_marks(stages: Sequence[Stage]) -> dict[str, int]:
    """Returns the stages as :meth:`Strategy.marks` has them."""
    return {f"stage {stage.name}": stage.first for stage in stages}


def image_size(images: Tensor) -> tuple[int, int]:
    """Returns (rows, columns) of images (N, 3, H, W)."""
    return images.shape[-2], images.shape[-1]


def module_of(network: Any) -> nn.Module:
    """The protocol says what may be called; that it is a module too, its weights need."""
    assert isinstance(network, nn.Module)
    return network
