"""Stops a run whose losses or gradients are not finite or whose labels are invalid.

On the CPU a step's values are checked before the optimiser uses them. On a GPU they are copied to
the host asynchronously and checked one step later, so that the GPU never waits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gbw_d2.weighting import FLAGS

# (head, name of a flag in FLAGS) -> bool tensor without axes.
Flags = Mapping[tuple[str, str], Tensor]


@dataclass
class _Pending:
    """A step's values during their asynchronous copy to the host."""

    iteration: int
    names: list[str]
    flags: list[tuple[str, str]]
    # First the values by name, then the flags.
    values: Tensor
    files: list[str]
    arrived: torch.cuda.Event | None


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Returns the Euclidean norm of all gradients together, a scalar tensor."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(gradients)).norm()


class FiniteCheck:
    """Holds each step's losses, gradient norm and file names until they have been checked."""

    def __init__(self) -> None:
        self._pending: deque[_Pending] = deque()

    def add(
        self,
        iteration: int,
        values: Mapping[str, Tensor],
        files: list[str],
        flags: Flags | None = None,
    ) -> None:
        """Stores a step's values and checks those that have arrived on the host.

        Args:
            iteration: the step.
            values: name -> tensor without axes, all on one device.
            files: file names of the step's images.
            flags: flags that the weighted losses have set on their device.

        Raises:
            FloatingPointError: a value is NaN or inf; names the step, the values and the files.
            ValueError: a flag is set; names the head and the files.
        """
        flags = flags or {}
        both = (*values.values(), *flags.values())
        stacked = torch.stack([v.detach().float() for v in both])
        arrived = None
        if stacked.is_cuda:
            host = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
            stacked = host.copy_(stacked, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        step = _Pending(iteration, list(values), list(flags), stacked, files, arrived)
        self._pending.append(step)
        while self._pending and self._has_arrived(self._pending[0]):
            self._look_at(self._pending.popleft())

    def finish(self) -> None:
        """Waits for all remaining values and checks them.

        Raises:
            FloatingPointError, ValueError: as in :meth:`add`.
        """
        while self._pending:
            step = self._pending.popleft()
            if step.arrived is not None:
                step.arrived.synchronize()
            self._look_at(step)

    @staticmethod
    def _has_arrived(step: _Pending) -> bool:
        return step.arrived is None or step.arrived.query()

    @staticmethod
    def _look_at(step: _Pending) -> None:
        numbers = step.values.tolist()
        count = len(step.names)
        for (head, flag), is_set in zip(step.flags, numbers[count:], strict=True):
            if is_set:
                raise ValueError(
                    f"iteration {step.iteration}: head '{head}' had {FLAGS[flag]}. Files of the "
                    f"batch: {', '.join(step.files)}"
                )
        values = dict(zip(step.names, numbers[:count], strict=True))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise FloatingPointError(
                f"iteration {step.iteration}: {', '.join(bad)} not finite ({shown}). Files of the "
                f"batch: {', '.join(step.files)}. Lower SOLVER.BASE_LR, or look at these images "
                "and labels"
            )
