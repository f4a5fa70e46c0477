"""The weighted losses of all heads of a network, as one module beside the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from gbw_d2.losses.weighted_loss import WeightedLoss


class WeightedLosses(nn.Module, Mapping[str, WeightedLoss]):
    """Maps head names to their losses; a checkpoint has one entry for all of them.

    Args:
        losses: the name of each head of the network and its loss.
    """

    def __init__(self, losses: Mapping[str, WeightedLoss]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(losses)

    def __getitem__(self, head: str) -> WeightedLoss:
        loss = self.heads[head]
        assert isinstance(loss, WeightedLoss)
        return loss

    def __iter__(self) -> Iterator[str]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)

    # Modules compare by identity, in place of the comparison of mappings.
    __eq__ = nn.Module.__eq__
    __hash__ = nn.Module.__hash__

    def flags(self) -> dict[tuple[str, str], Tensor]:
        """Returns (head, name of the flag) -> bool tensor without axes, on the losses' device."""
        return {
            (head, name): flag
            for head, loss in self.items()
            for name, flag in loss.scheme.flags().items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Restores the state of all heads; if it raises an error, nothing has been changed.

        Raises:
            ValueError: the state is of other heads, schemes, settings or numbers of classes.
        """
        shapes, theirs = _shapes(self.state_dict()), _shapes(state_dict)
        if shapes != theirs:
            missing = sorted(shapes.keys() - theirs.keys())
            unknown = sorted(theirs.keys() - shapes.keys())
            differing = sorted(k for k in shapes.keys() & theirs.keys() if shapes[k] != theirs[k])
            told = [
                f"{word} {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
                for word, keys in (
                    ("it lacks", missing),
                    ("it holds besides", unknown),
                    ("other shapes have", differing),
                )
                if keys
            ]
            raise ValueError(
                "the class weights' state was written with other WEIGHTING keys, UDA.NAME or "
                f"classes ({'; '.join(told)}); set those it was trained with"
            )
        return super().load_state_dict(state_dict, *args, **kwargs)


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...] | None]:
    """Returns the shape of each entry, or None if it is no tensor."""
    return {k: tuple(v.shape) if isinstance(v, Tensor) else None for k, v in state.items()}
