"""The class weights that a step's losses used, for logs and for heads that share weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gbw_d2.weighting.distributed import all_reduce_sum


@dataclass(frozen=True)
class LogEntry:
    """The weights and statistics of a weighted loss's last call, as detached tensors on the device.

    Attributes:
        class_ids: class id of each weight, in order.
        weights: (K,) class weights.
        counts: (K,) pixels, RoIs or segments of each class.
        measure: (K,) the scheme's measure of each class, or None where it measures nothing.
        summed: whether the counts are over all processes, and not of this one alone.
    """

    class_ids: tuple[int, ...]
    weights: Tensor
    counts: Tensor
    measure: Tensor | None = None
    summed: bool = False


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

    def over_processes(self) -> WeightLog:
        """Returns a log with all counts over all processes; every process must call it.

        Counts that no weight depends on are not summed in a step. Here all of them are summed at
        once, and nothing is copied to the host.
        """
        whole = WeightLog()
        own = [entry.counts for _, _, entry in self if not entry.summed]
        sums = all_reduce_sum(torch.cat(own)).split([len(c) for c in own]) if own else ()
        rest = iter(sums)
        for head, term, entry in self:
            counts = entry.counts if entry.summed else next(rest)
            whole.add(head, term, replace(entry, counts=counts, summed=True))
        return whole

    def __iter__(self) -> Iterator[tuple[str, str, LogEntry]]:
        for head, terms in self._entries.items():
            for term, entry in terms.items():
                yield head, term, entry
