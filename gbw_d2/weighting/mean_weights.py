"""The mean class weights of a loss term, and the shift of the logits that undoes their effect."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gbw_d2.weighting.running_mean import updated_mean

# A class of weight 0 is not learned at all; its logarithm must be finite all the same.
LEAST = 1e-3


class MeanWeights(nn.Module):
    """Running means of class weights per loss term, over the batches that show the class.

    Cross-entropy with class weights w learns the posterior in proportion to w_c p(c | x): it is
    right for a world where class c is w_c times as frequent. With tau log w added to the logits in
    the loss alone, the logits themselves are without tau of that prior shift, so that pseudo-labels
    and predictions come from the world as it is (Menon et al., Long-tail learning via logit
    adjustment, ICLR 2021, for weights of the class frequency; docs/equations.md 2c).

    Args:
        num_classes: K.
        terms: names of the loss terms.
    """

    def __init__(self, num_classes: int, terms: Sequence[str]) -> None:
        super().__init__()
        for term in terms:
            self.register_buffer(f"{term}_mean", torch.zeros(num_classes))
            # 0: no batch has shown the class yet.
            self.register_buffer(f"{term}_batches", torch.zeros(num_classes))

    def update(self, term: str, weights: Tensor, counts: Tensor) -> None:
        """Takes the weights (K,) of a batch with ``counts`` (K,) pixels; plain means at first."""
        mean, batches = updated_mean(
            self.get_buffer(f"{term}_mean"),
            self.get_buffer(f"{term}_batches"),
            weights,
            counts > 0,
        )
        setattr(self, f"{term}_mean", mean)
        setattr(self, f"{term}_batches", batches)

    def logit_shift(self, term: str, strength: float) -> Tensor:
        """Returns (K,) strength log w, 0 for a class that no batch has shown yet."""
        seen = self.get_buffer(f"{term}_batches") > 0
        mean = self.get_buffer(f"{term}_mean")
        return strength * torch.where(seen, mean, 1.0).clamp(min=LEAST).log()
