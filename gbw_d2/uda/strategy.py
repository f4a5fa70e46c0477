"""What an adaptation strategy is, and the registry of strategies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.modeling.protocol import Losses, SegmentationModel
from gbw_d2.registry import Registry

Batch = Sequence[dict[str, Any]]

STRATEGIES: Registry[type[Strategy]] = Registry("adaptation strategy (UDA.NAME)")


class Strategy:
    """Says what a training step computes from a source batch and a target batch.

    Args:
        model: the student; seen through :class:`SegmentationModel` only.
        settings: the strategy's own config node, ``UDA.<NAME>``, or None where it has none.
    """

    # True: the trainer draws target images and stops where DATASETS.TARGET is empty.
    needs_target = False

    def __init__(self, model: SegmentationModel, settings: Any) -> None:
        self.model = model
        self.settings = settings

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields dictionaries of losses; backward runs on each before the next is asked for.

        Args:
            source: labelled samples.
            target: samples without labels, None for strategies that need none.
            iteration: 0-based step.
        """
        raise NotImplementedError

    def after_step(self, iteration: int) -> None:
        """Runs after the optimiser's step, for instance to update a teacher."""

    def networks(self) -> dict[str, nn.Module]:
        """Names the networks that may be scored (``EVAL.WEIGHTS``); "student" is always there."""
        assert isinstance(self.model, nn.Module)
        return {"student": self.model}

    def supervised_losses(self, source: Batch) -> Losses:
        """Returns the losses of a labelled batch: the part that all strategies share."""
        images = self.model.images(source)
        size = (images.shape[-2], images.shape[-1])
        outputs = self.model.outputs(self.model.features(images), size)
        return self.model.losses(outputs, self.model.targets(source), None, keys.TERM_SOURCE)


def build_strategy(name: str, model: SegmentationModel, uda_keys: Any) -> Strategy:
    """Builds the strategy ``UDA.NAME`` with the node ``UDA.<NAME>`` of the config.

    Raises:
        UnknownNameError: no such strategy; the message lists the known ones.
    """
    return STRATEGIES.get(name)(model, uda_keys.get(name.upper()))
