"""The teacher: a running mean of the student's weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def ema_decay(iteration: int, alpha: float) -> float:
    """Returns min(1 - 1/(t + 1), alpha): the teacher's share in its own update.

    Tarvainen and Valpola, NIPS 2017, with the ramp of DACS: 0 at t = 0, so that the teacher starts
    as a copy of the student; until alpha is reached the teacher is the plain mean of all students.

    Args:
        iteration: t >= 0.
        alpha: the final decay, 0..1; 0.99 in DACS, 0.999 in DAFormer.
    """
    return min(1 - 1 / (iteration + 1), alpha)


@torch.no_grad()
def update(teacher: nn.Module, student: nn.Module, decay: float, buffers: bool = False) -> None:
    """Sets each parameter of the teacher to decay * teacher + (1 - decay) * student, in place.

    DACS and DAFormer do not update the teacher's buffers, so that its running statistics are those
    of its own passes in training mode; here they follow the student's, so that the teacher can be
    evaluated.

    Args:
        teacher: a module of the student's structure.
        student: the module that is trained; it is not changed.
        decay: from ``ema_decay``, 0..1; 0 copies the student exactly.
        buffers: True averages floating-point buffers like parameters, False copies them. Other
            buffers are copied always.
    """
    averaged = _pairs(teacher.named_parameters(), student.named_parameters())
    copied: list[tuple[Tensor, Tensor]] = []
    for pair in _pairs(teacher.named_buffers(), student.named_buffers()):
        (averaged if buffers and pair[0].is_floating_point() else copied).append(pair)
    if averaged:
        mine, theirs = zip(*averaged, strict=True)
        torch._foreach_lerp_(mine, theirs, 1 - decay)
    if copied:
        mine, theirs = zip(*copied, strict=True)
        torch._foreach_copy_(mine, theirs)


def _pairs(
    teacher: Iterable[tuple[str, Tensor]], student: Iterable[tuple[str, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    mine, theirs = dict(teacher), dict(student)
    assert mine.keys() == theirs.keys(), f"only one has {sorted(mine.keys() ^ theirs.keys())}"
    for name in mine:
        assert mine[name].shape == theirs[name].shape, f"{name} differs in shape"
    return [(mine[name], theirs[name]) for name in mine]
