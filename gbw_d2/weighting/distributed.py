"""Sums and maxima over the processes of a run; with a single process they return their argument."""

from __future__ import annotations

import torch
from torch import Tensor


def world_size() -> int:
    """Returns the number of processes in the default group, 1 where there is none."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def all_reduce_sum(values: Tensor) -> Tensor:
    """Returns the sum of ``values`` over all processes; every process must call it.

    Args:
        values: a tensor of any shape, the same shape in every process; it is not changed.
    """
    if world_size() == 1:
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total


def all_reduce_max(values: Tensor) -> Tensor:
    """Returns the elementwise maximum over all processes, as :func:`all_reduce_sum` the sum."""
    if world_size() == 1:
        return values
    greatest = values.clone()
    torch.distributed.all_reduce(greatest, torch.distributed.ReduceOp.MAX)
    return greatest
