"""What the weighted losses of a step used: read by the logs, and by heads that share weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LogEntry:
    """What a weighted loss used in its last call; detached device tensors.

    Attributes:
        class_ids: class id of each weight, in order.
        weights: (K,) class weights.
        counts: (K,) pixels, RoIs or segments of each class.
        measure: (K,) what the scheme measured of each class, or None where it measures nothing.
    """

    class_ids: tuple[int, ...]
    weights: Tensor
    counts: Tensor
    measure: Tensor | None = None


class WeightLog:
    """The last entry of each head and loss term."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, LogEntry]] = {}

    def add(self, head: str, term: str, entry: LogEntry) -> None:
        """Takes what the loss of a head used for a loss term; replaces the entry before."""
        self._entries.setdefault(head, {})[term] = entry

    def get(self, head: str, term: str) -> LogEntry | None:
        """Returns the last entry of a head and loss term, None before the first."""
        return self._entries.get(head, {}).get(term)

    def __iter__(self) -> Iterator[tuple[str, str, LogEntry]]:
        for head, terms in self._entries.items():
            for term, entry in terms.items():
                yield head, term, entry
