"""source_only: supervised training on the source, the lower bound of every table.

The upper bound (oracle) is the same strategy with the labelled target as its source.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gbw_d2.uda.stages import Batch
from gbw_d2.uda.strategy import STRATEGIES, Strategy


@STRATEGIES.register("source_only")
class SourceOnly(Strategy):
    """Trains on source labels and never uses the target."""

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the supervised losses of the source batch."""
        yield self.supervised_losses(source)
