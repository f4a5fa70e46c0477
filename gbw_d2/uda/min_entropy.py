"""min_entropy: source labels plus low entropy on the target (MinEnt; Vu et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gbw_d2 import keys
from gbw_d2.losses import entropy_loss
from gbw_d2.uda.strategy import STRATEGIES, Batch, Strategy


@STRATEGIES.register("min_entropy")
class MinEntropy(Strategy):
    """Adds the target's mean normalised entropy, times ``UDA.MIN_ENTROPY.LOSS_WEIGHT``.

    Class weighting acts on the labelled term; the entropy is not weighted, as in the reference.
    """

    needs_target = True

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the supervised losses, then the target's entropy."""
        assert target is not None
        yield self.supervised_losses(source)
        images = self.model.images(target)
        size = (images.shape[-2], images.shape[-1])
        outputs = self.model.outputs(self.model.features(images), size)
        loss = entropy_loss(outputs[keys.SEMANTIC_LOGITS])
        yield {"loss_entropy": self.settings.LOSS_WEIGHT * loss}
