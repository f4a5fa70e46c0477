"""The class weights that a step's losses used, for logs and for heads that share weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LogEntry:
    """The weights and statistics of a weighted loss's last call, as detached tensors on the device.

    Attributes:
        class_ids: class id of each weight, in order.
        weights: (K,) class weights.
        counts: (K,) pixels, RoIs or segments of each class.
        measure: (K,) the scheme's measure of each class, or None where it measures nothing.
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
        """Stores the entry of a head and loss term, in place of the previous one."""
        self._entries.setdefault(head, {})[term] = entry

    def get(self, head: str, term: str) -> LogEntry | None:
        """Returns the last entry of a head and loss term, or None before the first."""
        return self._entries.get(head, {}).get(term)

    def __iter__(self) -> Iterator[tuple[str, str, LogEntry]]:
        for head, terms in self._entries.items():
            for term, entry in terms.items():
                yield head, term, entry
