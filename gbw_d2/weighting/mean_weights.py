"""Mean class weights of a loss term, and the logit adjustment that undoes their prior shift."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gbw_d2.weighting.running_mean import updated_mean

# A class of weight 0 is not learned at all, but the logarithm of its weight must be finite.
LEAST = 1e-3


class MeanWeights(nn.Module):
    """Running means of class weights per loss term, over the batches that show the class.

    Cross-entropy with class weights w learns the posterior in proportion to w_c p(c | x): the
    posterior of data where class c is w_c times as frequent (prior shift). Where tau log w is added
    to the logits in the loss alone, the logits themselves lack the share tau of this prior shift,
    so that pseudo-labels and predictions follow the true class frequencies (Menon et al., Long-tail
    learning via logit adjustment, ICLR 2021, for weights by class frequency; docs/equations.md 2c).

    Args:
        num_classes: K.
        terms: names of the loss terms.
    """

    def __init__(self, num_classes: int, terms: Sequence[str]) -> None:
        super().__init__()
        for term in terms:
            self.register_buffer(f"{term}_mean", torch.zeros(num_classes))
            # 0 until a batch contains the class.
            self.register_buffer(f"{term}_batches", torch.zeros(num_classes))

    def update(self, term: str, weights: Tensor, counts: Tensor) -> None:
        """Updates the means by a batch's weights (K,), for classes with ``counts`` (K,) above 0."""
        mean, batches = updated_mean(
            self.get_buffer(f"{term}_mean"),
            self.get_buffer(f"{term}_batches"),
            weights,
            counts > 0,
        )
        setattr(self, f"{term}_mean", mean)
        setattr(self, f"{term}_batches", batches)

    def logit_shift(self, term: str, strength: float) -> Tensor:
        """Returns (K,) strength log w, 0 for a class that no batch has contained yet."""
        seen = self.get_buffer(f"{term}_batches") > 0
        mean = self.get_buffer(f"{term}_mean")
        return strength * torch.where(seen, mean, 1.0).clamp(min=LEAST).log()
