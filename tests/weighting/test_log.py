from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gbw_d2.losses import ClassWeightedCrossEntropy
from gbw_d2.weighting import LogEntry, WeightLog, build_scheme


def entry(weight: float) -> LogEntry:
    return LogEntry((3,), torch.tensor([weight]), torch.ones(1))


def test_the_last_entry_of_each_head_and_term_is_kept() -> None:
    log = WeightLog()
    assert log.get("semantic", "source") is None and list(log) == []
    first, second, mixed, other = map(entry, (1.0, 2.0, 3.0, 4.0))
    log.add("semantic", "source", first)
    log.add("center", "source", other)
    log.add("semantic", "mixed", mixed)
    log.add("semantic", "source", second)
    assert log.get("semantic", "source") is second
    assert log.get("semantic", "mixed") is mixed
    assert log.get("semantic", "pseudo") is None and log.get("center", "mixed") is None
    found = {(head, term): each for head, term, each in log}
    keys = (("semantic", "source"), ("semantic", "mixed"), ("center", "source"))
    assert found == dict(zip(keys, (second, mixed, other), strict=True))


@pytest.mark.parametrize(("scheme", "adapts"), [("none", False), ("gbw_norm", True)])
def test_counts_are_summed_over_processes_once(
    monkeypatch: pytest.MonkeyPatch, scheme: str, adapts: bool
) -> None:
    # As if there were two processes with the same pixels; an adaptive scheme has summed its own.
    sums: list[Tensor] = []

    def doubled(values: Tensor) -> Tensor:
        sums.append(values)
        return 2 * values

    monkeypatch.setattr("gbw_d2.weighting.statistics.all_reduce_sum", doubled)
    monkeypatch.setattr("gbw_d2.weighting.log.all_reduce_sum", doubled)
    log, labels = WeightLog(), torch.tensor([[[0, 0, 1, 255]]])
    criterion = ClassWeightedCrossEntropy(build_scheme(scheme, 2), head="semantic")
    criterion(torch.zeros(1, 2, 1, 4), labels, log=log)
    log.add("center", "source", entry(1.0))
    in_step = len(sums)
    assert (in_step > 0) == adapts
    whole = log.whole_batch()
    assert len(sums) == in_step + 1
    assert whole.get("semantic", "source").counts.tolist() == [4, 2]
    assert whole.get("center", "source").counts.tolist() == [2]
    assert log.get("center", "source").counts.tolist() == [1]
