"""How many of torch's operations class weighting takes: on small inputs each costs the same."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gbw_d2.losses import ClassWeightedRoIClassification, roi
from gbw_d2.losses.weighted_loss import WeightedLoss
from gbw_d2.weighting import build_scheme


class Operations(TorchDispatchMode):
    """Counts the operations inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.number += 1
        return function(*args, **(kwargs or {}))


def counted(owner: Any, name: str, counts: Counter[str]) -> Any:
    inner = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        with Operations() as operations:
            result = inner(*args, **kwargs)
        counts[name] += operations.number
        return result

    return patch.object(owner, name, call)


def test_a_head_with_gbw_takes_few_operations() -> None:
    counts: Counter[str] = Counter()
    loss = ClassWeightedRoIClassification(build_scheme("gbw", 6)).train()
    logits, features = torch.randn(128, 7), torch.randn(128, 32)
    labels = torch.arange(128) % 7
    with ExitStack() as stack:
        stack.enter_context(counted(roi, "measure_prepared", counts))
        stack.enter_context(counted(WeightedLoss, "class_weights", counts))
        loss(logits, labels, features)
    # It was 116 and 115 once, which a step of a small network felt (docs/speed.md).
    assert 0 < counts["measure_prepared"] <= 92, counts
    assert 0 < counts["class_weights"] <= 100, counts
