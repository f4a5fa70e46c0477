"""adversarial: trains target predictions to look like source predictions to a discriminator.

With INPUT softmax this is AdaptSegNet (Tsai et al., CVPR 2018), with INPUT self_information AdvEnt
(Vu et al., CVPR 2019).
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
from gbw_d2.uda.stages import Batch
from gbw_d2.uda.strategy import STRATEGIES, ExtraOptimizer, RunSettings, Strategy


@STRATEGIES.register("adversarial")
class Adversarial(Strategy):
    """Trains one discriminator per semantic head against the student.

    The student is trained so that the discriminators take its target maps for source maps; the
    discriminators then learn to distinguish detached source maps (label 0) from detached target
    maps (label 1), each with the factor 1/2. All optimisers step once, after both;
    docs/equations.md 9b. Class weighting acts on the labelled terms only. Arguments are those of
    :class:`Strategy`; the model must already be on its device.

    Raises:
        UnknownNameError: an unknown INPUT or LOSS.
    """

    needs_target = True
    least_classes = 2

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
        """Yields the supervised, the student's adversarial and the discriminators' losses."""
        assert target is not None
        losses, outputs = self.source_pass(source)
        source_maps = _detached(self._maps(outputs))
        yield losses
        # The source pass's outputs must be freed before the next pass begins.
        del losses, outputs
        if not self.adapts(iteration):
            return
        target_maps = self._maps(self.outputs(target, instances=False))
        # A graph that is built while the discriminators are frozen gives them no gradient.
        with frozen(self._discriminators.values()):
            losses = self._student_losses(target_maps)
        yield losses
        yield self._discriminator_losses(source_maps, _detached(target_maps))

    def modules(self) -> dict[str, nn.Module]:
        """Returns the discriminators, named ``discriminator_<head>``."""
        return {f"discriminator_{head}": module for head, module in self._discriminators.items()}

    def optimizers(self) -> dict[str, ExtraOptimizer]:
        """Returns one Adam optimiser per discriminator, with the name of its module."""
        return dict(self._optimizers)

    def _discriminator(self, head: str) -> Discriminator:
        assert isinstance(self.model, nn.Module)
        # Keyed by the run's seed, so that initial weights are equal in every process, whatever was
        # drawn before. Not the head's bare name: another key would give every run other
        # discriminators.
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
