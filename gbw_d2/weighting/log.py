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
        self._part = 0
        # Counts of each part of a step's batch, which are only summed where they are logged.
        self._counts: dict[tuple[str, str], dict[int, Tensor]] = {}
        self._of_earlier_steps: set[tuple[str, str]] = set()

    def begin_part(self, part: int) -> None:
        """Begins part 0, 1, ... of a step's batch (gradient accumulation)."""
        self._part = part
        if part == 0:
            self._of_earlier_steps = set(self._counts)

    def add(self, head: str, term: str, entry: LogEntry) -> None:
        """Stores the entry of a head and loss term, in place of the previous one."""
        self._entries.setdefault(head, {})[term] = entry
        key = (head, term)
        if key in self._of_earlier_steps:
            self._of_earlier_steps.remove(key)
            del self._counts[key]
        self._counts.setdefault(key, {})[self._part] = entry.counts

    def get(self, head: str, term: str) -> LogEntry | None:
        """Returns the last entry of a head and loss term, or None before the first."""
        return self._entries.get(head, {}).get(term)

    def whole_batch(self) -> WeightLog:
        """Returns a log with the counts of all parts and processes; every process must call it.

        Counts that no weight depends on are not summed in a step. Here all of them are summed at
        once, and nothing is copied to the host.
        """
        whole = WeightLog()
        entries = [(h, t, replace(entry, counts=self._counts_of(h, t))) for h, t, entry in self]
        own = [entry.counts for _, _, entry in entries if not entry.summed]
        sums = all_reduce_sum(torch.cat(own)).split([len(c) for c in own]) if own else ()
        rest = iter(sums)
        for head, term, entry in entries:
            counts = entry.counts if entry.summed else next(rest)
            whole.add(head, term, replace(entry, counts=counts, summed=True))
        return whole

    def _counts_of(self, head: str, term: str) -> Tensor:
        return torch.stack(list(self._counts[head, term].values())).sum(0)

    def __iter__(self) -> Iterator[tuple[str, str, LogEntry]]:
        for head, terms in self._entries.items():
            for term, entry in terms.items():
                yield head, term, entry
