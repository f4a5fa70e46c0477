from __future__ import annotations

import torch

from gbw_d2.weighting import LogEntry, WeightLog


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
