"""The interface of adaptation strategies, and their registry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.errors import UserError
from gbw_d2.keyed_random import keyed_rng
from gbw_d2.modeling.protocol import Losses, Outputs, SegmentationModel, Targets
from gbw_d2.registry import Registry
from gbw_d2.uda.parts.masked_consistency import MaskedConsistency
from gbw_d2.uda.stages import Batch, Context, Stage, StageData, stage_marks
from gbw_d2.weighting.log import WeightLog

STRATEGIES: Registry[type[Strategy]] = Registry("adaptation strategy (UDA.NAME)")


@dataclass(frozen=True)
class ExtraOptimizer:
    """An additional optimiser beside the student's, for instance a discriminator's.

    Args:
        module: name of the module it optimises, one of the strategy's ``modules``.
        optimizer: the optimiser of the module's parameters.
        lr_factor: maps the completed share of the learning-rate schedule, 0..1, to a factor of the
            optimiser's learning rates.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    lr_factor: Callable[[float], float]


@dataclass(frozen=True)
class RunSettings:
    """The settings of the run that a strategy may use.

    Args:
        seed: SEED, the seed of all its random draws.
        max_iter: SOLVER.MAX_ITER, iterations of the whole run.
        warm_up: UDA.WARM_UP, share of these before the first loss on the target, 0..1.
        masked: the masked consistency of UDA.MASKED_CONSISTENCY, or None if it is off.

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
    """Defines the losses of a training step from a source batch and a target batch.

    Args:
        model: the student, used only through the interface :class:`SegmentationModel`.
        settings: the strategy's own config node, ``UDA.<NAME>``, or None where it has none.
        run: the settings of the run.

    Attributes:
        needs_target: whether it needs target images; an empty DATASETS.TARGET is then an error.
        follows_warm_up: whether UDA.WARM_UP says when the target comes in.
        terms: names of its loss terms with class labels; class weighting keeps state for each.
        has_pseudo_labels: whether it has pseudo-labels, and yields ``masked_losses`` if ``masked``
            is not None.
        asks_for: methods of gbw_d2/modeling/capabilities.py that the network must have beside those
            of :class:`SegmentationModel`.
        least_classes: least number of classes of a network that it can adapt.
        own_thresholds: what it decides by in place of self-training's thresholds; "" where there
            is nothing to be mistaken.
        masked: hides blocks of target images, or None where masked consistency is off.
        weight_log: the class weights that the losses of the last step used.
    """

    needs_target = False
    follows_warm_up = True
    terms: tuple[str, ...] = (keys.TERM_SOURCE,)
    has_pseudo_labels = False
    asks_for: tuple[str, ...] = ()
    least_classes = 1
    own_thresholds = ""

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
        """Returns the loss terms with class labels under its settings, the node ``UDA.<NAME>``."""
        return cls.terms

    @classmethod
    def terms_without_semantics(cls, settings: Any) -> dict[str, str]:
        """Returns the terms whose semantic heads have no loss: term -> the keys that make it so."""
        return {}

    @classmethod
    def needs_weights(cls, settings: Any) -> str:
        """Returns an error message if MODEL.WEIGHTS must be a whole trained network, or ""."""
        return ""

    @classmethod
    def needs_instances(cls, settings: Any) -> str:
        """Returns which keys ask for labels of instances in the source, or ""."""
        return ""

    def stages(self) -> Sequence[Stage]:
        """Returns the run's stages in order; together they cover iterations 0 .. max_iter - 1."""
        return [Stage("training", 0, self.max_iter)]

    def marks(self) -> dict[str, int]:
        """Returns for each part of the run, described in words, its first iteration.

        Most of these follow from shares of SOLVER.MAX_ITER. If a run is resumed with other keys,
        the parts that have begun must still be the same (gbw_d2/engine/resume.py).
        """
        marks = stage_marks(self.stages())
        if self.needs_target and self.follows_warm_up and self.warm_up > 0:
            marks["learning from the target (UDA.WARM_UP)"] = math.ceil(
                self.warm_up * self.max_iter
            )
        return marks

    def prepare(self, stage: Stage, context: Context) -> None:
        """Prepares a stage before its first iteration, and again where it is resumed.

        The student then holds its initial weights, those of the checkpoint, or those of the
        previous stage.
        """

    def data(self, stage: Stage) -> StageData:
        """Returns the data that a stage draws; called after :meth:`prepare`."""
        return StageData(self.needs_target)

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields dictionaries of losses; backward runs on each before the next is computed.

        Args:
            source: labelled samples.
            target: samples without labels, or None for stages that draw none.
            iteration: 0-based step.
        """
        raise NotImplementedError

    def after_step(self, iteration: int) -> None:
        """Runs after the optimisers' steps, for instance to update a teacher."""

    def networks(self) -> dict[str, nn.Module]:
        """Returns the networks that can be evaluated (``EVAL.WEIGHTS``), "student" among them."""
        return {"student": module_of(self.model)}

    def modules(self) -> dict[str, nn.Module]:
        """Returns the networks beside the student whose weights are saved in checkpoints."""
        return {}

    def optimizers(self) -> dict[str, ExtraOptimizer]:
        """Returns the optimisers beside the student's, whose state is saved in checkpoints."""
        return {}

    def adapts(self, iteration: int) -> bool:
        """Whether the warm-up is over, so that losses on the target apply."""
        return iteration >= self.warm_up * self.max_iter

    def supervised_losses(self, source: Batch) -> Losses:
        """Returns the losses of a labelled batch; the pass's other outputs are freed."""
        return self.source_pass(source)[0]

    def source_pass(self, source: Batch) -> tuple[Losses, Outputs]:
        """Runs the student on a labelled batch, the part that all strategies share.

        Returns:
            the supervised losses, and the outputs that they are computed from.
        """
        outputs = self.outputs(source)
        targets = self.model.targets(source)
        losses = self.model.losses(outputs, targets, None, keys.TERM_SOURCE, self.weight_log)
        return losses, outputs

    def outputs(self, batch: Batch, instances: bool = True) -> Outputs:
        """Runs the student on a batch.

        Args:
            batch: samples of source or target.
            instances: whether to run the instance heads.
        """
        images = self.model.images(batch)
        features = self.model.features(images, self.network_draws(batch))
        return self.model.outputs(features, image_size(images), instances)

    def masked_losses(
        self, target: Batch, images: Tensor, targets: Targets, pixel_weights: Tensor | None
    ) -> Losses:
        """Returns the student's losses on masked target images, named ``masked_...``.

        Args:
            target: the samples; a mask is drawn for each.
            images: (N, 3, H, W), their normalised images, with or without augmentation.
            targets: pseudo-labels of the images before masking.
            pixel_weights: (N, H, W) weights of the pseudo-labels, or None for 1.
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
        """Returns random generators, one per sample, for networks that draw crops or RoIs.

        Args:
            batch: the samples that the images are, or were made of.
            term: which images these are (``keys.TERM_*``); generators of two terms are independent.
        """
        return self.generators(f"network {term}", batch)

    def generators(self, purpose: str, batch: Batch) -> list[np.random.Generator]:
        """Returns one generator per sample, keyed by (seed, purpose, number of the sample's draw).

        So the random numbers do not depend on how many processes share a batch.
        """
        return [keyed_rng(self.seed, purpose, sample[keys.DRAW]) for sample in batch]


def image_size(images: Tensor) -> tuple[int, int]:
    """Returns (rows, columns) of images (N, 3, H, W)."""
    return images.shape[-2], images.shape[-1]


def module_of(network: Any) -> nn.Module:
    """Returns a network as a module, which the network's interface does not promise."""
    assert isinstance(network, nn.Module)
    return network
