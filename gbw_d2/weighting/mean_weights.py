"""The mean class weights of a loss term, and the shift of the logits that undoes their tilt."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gbw_d2.weighting.running_mean import updated_mean

# A class of weight 0 is not learned at all; its logarithm must be finite all the same.
LEAST = 1e-3


class MeanWeights:
    """Running means of class weights per loss term, over the batches that show the class.

    What the weights were over the last hundred batches tilts the network.

    Cross-entropy with class weights w learns the posterior in proportion to w_c p(c | x): it is
    right for a world where class c is w_c times as frequent. With tau log w added to the logits in
    the loss alone, the logits themselves are without tau of that tilt, so that pseudo-labels and
    predictions come from the world as it is (Menon et al., Long-tail learning via logit adjustment,
    ICLR 2021, for weights of the class frequency; docs/equations.md 2c).

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._means: dict[str, Tensor] = {}
        self._batches: dict[str, Tensor] = {}

    def update(self, term: str, weights: Tensor, counts: Tensor) -> None:
        """Takes the weights (K,) of a batch with ``counts`` (K,) pixels; plain means at first."""
        zeros = torch.zeros(self.num_classes, device=weights.device)
        self._means[term], self._batches[term] = updated_mean(
            self._means.get(term, zeros).to(weights.device),
            self._batches.get(term, zeros).to(weights.device),
            weights,
            counts > 0,
        )

    def logit_shift(self, term: str, strength: float) -> Tensor | None:
        """Returns (K,) strength log w, 0 for a class not seen yet; None before the first batch."""
        if term not in self._means:
            return None
        seen = self._batches[term] > 0
        return strength * torch.where(seen, self._means[term], 1.0).clamp(min=LEAST).log()

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the means as plain tensors."""
        tables = {"mean_weights": self._means, "weighted_batches": self._batches}
        return {
            f"{term}.{part}": value
            for part, table in tables.items()
            for term, value in table.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what ``state_dict`` gave.

        Raises:
            ValueError: entries of another shape, or one of a pair without the other.
        """
        means, batches = (
            {
                key.removesuffix(f".{part}"): value.detach().clone()
                for key, value in state.items()
                if key.endswith(f".{part}")
            }
            for part in ("mean_weights", "weighted_batches")
        )
        shapes = {tuple(value.shape) for value in state.values()}
        if means.keys() != batches.keys() or shapes - {(self.num_classes,)}:
            raise ValueError(
                f"weighting state {sorted(state)} has shapes {sorted(shapes)}; "
                "expected '<term>.mean_weights' and '<term>.weighted_batches' of shape "
                f"({self.num_classes},)"
            )
        self._means, self._batches = means, batches


def is_mean_weights(key: str) -> bool:
    """Whether an entry of a scheme's state belongs to ``MeanWeights``."""
    return key.rpartition(".")[2] in ("mean_weights", "weighted_batches")
