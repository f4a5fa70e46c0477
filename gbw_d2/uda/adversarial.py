"""adversarial: target predictions must look like source ones to a discriminator.

AdaptSegNet (Tsai et al., CVPR 2018) with INPUT softmax, AdvEnt (Vu et al., CVPR 2019) with INPUT
self_information.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2.keyed_random import keyed_rng
from gbw_d2.losses.adversarial import ADVERSARIAL_LOSSES, SOURCE_DOMAIN, TARGET_DOMAIN
from gbw_d2.modeling.protocol import Outputs, SegmentationModel
from gbw_d2.uda.parts.discriminator import DISCRIMINATOR_INPUTS, Discriminator, frozen, seeded
from gbw_d2.uda.strategy import STRATEGIES, Batch, ExtraOptimizer, RunSettings, Strategy


@STRATEGIES.register("adversarial")
class Adversarial(Strategy):
    """Trains one discriminator per semantic head against the student.

    The student's target maps are scored as if they were source; the discriminators then learn to
    tell detached source maps (label 0) from detached target maps (label 1), each half. All step
    once, after both; docs/equations.md 9b. Class weighting acts on the labelled terms only.
    Arguments are those of :class:`Strategy`; the model must be on its device already.

    Raises:
        UnknownNameError: an INPUT or LOSS that is not known.
    """

    needs_target = True

    def __init__(self, model: SegmentationModel, settings: Any, run: RunSettings) -> None:
        super().__init__(model, settings, run)
        self._map = DISCRIMINATOR_INPUTS.get(settings.INPUT)
        self._loss = ADVERSARIAL_LOSSES.get(settings.LOSS)
        self._discriminators = {head: self._discriminator(head) for head in model.semantic_heads()}
        self._optimizers = {
            f"discriminator_{head}": ExtraOptimizer(
                module,
                torch.optim.Adam(
                    module.parameters(), settings.BASE_LR, betas=tuple(settings.BETAS)
                ),
                self._lr_factor,
            )
            for head, module in self._discriminators.items()
        }

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the supervised losses, the student's adversarial ones, the discriminators'."""
        assert target is not None
        losses, outputs = self.source_pass(source)
        source_maps = _detached(self._maps(outputs))
        yield losses
        # What the source pass computed must be gone when the next one begins.
        del losses, outputs
        if not self.adapts(iteration):
            return
        target_maps = self._maps(self.outputs(target, instances=False))
        # The graph is what counts: built without the discriminators' gradients, it gives them none.
        with frozen(self._discriminators.values()):
            losses = self._student_losses(target_maps)
        yield losses
        yield self._discriminator_losses(source_maps, _detached(target_maps))

    def modules(self) -> dict[str, nn.Module]:
        """Names the discriminators, ``discriminator_<head>``."""
        return {f"discriminator_{head}": module for head, module in self._discriminators.items()}

    def optimizers(self) -> dict[str, ExtraOptimizer]:
        """Names one Adam per discriminator, like its module."""
        return dict(self._optimizers)

    def _discriminator(self, head: str) -> Discriminator:
        assert isinstance(self.model, nn.Module)
        # Keyed by the run's seed: the same in every process, whatever was drawn before.
        # Not the head's bare name: another key would give every run other discriminators.
        key = int(keyed_rng(self.seed, "discriminator", f"{head}_logits").integers(2**62))
        with seeded(key):
            module = Discriminator(self.model.label_space.num_classes, self.settings.CHANNELS)
        return module.to(next(self.model.parameters()).device)

    def _lr_factor(self, done: float) -> float:
        return max(0.0, 1 - done) ** self.settings.DECAY_POWER

    def _maps(self, outputs: Outputs) -> dict[str, Tensor]:
        heads = self.model.semantic_heads()
        return {
            head: self._map(prediction.dense())
            for head, prediction in zip(heads, outputs.predictions(), strict=True)
        }

    def _student_losses(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = (self.settings.LOSS_WEIGHT, self.settings.AUXILIARY_LOSS_WEIGHT)
        return {
            f"loss_adversarial_{head}": weight
            * self._loss(self._discriminators[head](maps[head]), SOURCE_DOMAIN)
            for head, weight in zip(maps, weights, strict=False)
        }

    def _discriminator_losses(
        self, source_maps: dict[str, Tensor], target_maps: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return {
            f"loss_discriminator_{head}": (
                self._loss(module(source_maps[head]), SOURCE_DOMAIN)
                + self._loss(module(target_maps[head]), TARGET_DOMAIN)
            )
            / 2
            for head, module in self._discriminators.items()
        }


def _detached(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    return {head: each.detach() for head, each in maps.items()}
