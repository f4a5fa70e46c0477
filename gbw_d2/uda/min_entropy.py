"""min_entropy: source labels and the entropy loss on the target (MinEnt; Vu et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gbw_d2.losses import entropy_loss
from gbw_d2.uda.stages import Batch
from gbw_d2.uda.strategy import STRATEGIES, Strategy


@STRATEGIES.register("min_entropy")
class MinEntropy(Strategy):
    """Adds the target's mean normalised entropy, with a separate weight for each semantic head.

    Vu et al., ADVENT, CVPR 2019, section 3.2, MinEnt; docs/equations.md 9. The auxiliary head has a
    term where the network has that head. Class weighting acts on the labelled terms; the entropy is
    not weighted, as in the authors' code.
    """

    needs_target = True
    least_classes = 2

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the supervised losses, then the target's entropy."""
        assert target is not None
        yield self.supervised_losses(source)
        if not self.adapts(iteration):
            return
        predictions = self.outputs(target, instances=False).predictions()
        weights = (self.settings.LOSS_WEIGHT, self.settings.AUXILIARY_LOSS_WEIGHT)
        heads = self.model.semantic_heads()
        yield {
            f"loss_entropy_{head}": weight * entropy_loss(prediction.dense())
            for head, prediction, weight in zip(heads, predictions, weights, strict=False)
        }
