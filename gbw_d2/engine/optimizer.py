"""Optimisers by name, with one learning rate for the backbone and one for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.registry import Registry

from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping

OptimizerFactory = Callable[[list[dict[str, Any]], Any], torch.optim.Optimizer]
OPTIMIZERS: Registry[OptimizerFactory] = Registry("optimiser (SOLVER.OPTIMIZER)")


@OPTIMIZERS.register("SGD")
def _sgd(groups: list[dict[str, Any]], solver: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups, solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
    )


# One pass over all parameters, where one by one they cost a small network a good part of a step.
@OPTIMIZERS.register("ADAM")
def _adam(groups: list[dict[str, Any]], solver: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, solver.BASE_LR, fused=True)


@OPTIMIZERS.register("ADAMW")
def _adamw(groups: list[dict[str, Any]], solver: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, solver.BASE_LR, fused=True)


def parameter_groups(model: nn.Module, solver: Any) -> list[dict[str, Any]]:
    """Splits the trainable parameters into groups of one learning rate and weight decay.

    Args:
        model: a network whose ``backbone`` learns at ``BASE_LR``; all else at ``BASE_LR *
            HEAD_LR_FACTOR``.
        solver: the config's ``SOLVER`` node.

    Returns:
        groups that hold each trainable parameter exactly once.
    """
    heads = nn.ModuleList([m for name, m in model.named_children() if name != "backbone"])
    groups = []
    for part, factor in ((model.backbone, 1.0), (heads, solver.HEAD_LR_FACTOR)):
        groups += get_default_optimizer_params(
            part,
            base_lr=solver.BASE_LR * factor,
            weight_decay=solver.WEIGHT_DECAY,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        )
    held = sum(len(g["params"]) for g in groups)
    trainable = sum(p.requires_grad for p in model.parameters())
    assert held == trainable, f"{held} parameters in groups, {trainable} trainable"
    return groups


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """Builds ``SOLVER.OPTIMIZER``, with Detectron2's gradient clipping where it is enabled."""
    factory = OPTIMIZERS.get(cfg.SOLVER.OPTIMIZER)
    optimizer = factory(parameter_groups(model, cfg.SOLVER), cfg.SOLVER)
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != "norm":
        return maybe_add_gradient_clipping(cfg, optimizer)
    optimizer.register_step_pre_hook(
        lambda stepping, _args, _kwargs: clip_each_gradient(
            (p for group in stepping.param_groups for p in group["params"]),
            clip.CLIP_VALUE,
            clip.NORM_TYPE,
        )
    )
    return optimizer


@torch.no_grad()
def clip_each_gradient(
    parameters: Iterable[nn.Parameter], max_norm: float, norm_type: float = 2.0
) -> None:
    """Scales each gradient by itself down to a norm, in place, as Detectron2's ``norm`` does.

    Detectron2 calls ``clip_grad_norm_`` once per parameter: a thousand small pieces of work in a
    step, for which a GPU waits. Here they are all taken together.

    Args:
        parameters: those without a gradient are left out.
        max_norm: the greatest norm of one gradient.
        norm_type: of the norm, 2 for the Euclidean one.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        norms = torch.stack(torch._foreach_norm(gradients, norm_type))
        torch._foreach_mul_(gradients, (max_norm / (norms + 1e-6)).clamp_(max=1.0).unbind())


def schedule_from(
    cfg: Any,
    optimizer: torch.optim.Optimizer,
    rates: Sequence[float],
    iterations: int,
    position: int,
) -> torch.optim.lr_scheduler.LRScheduler:
    """Builds the schedule of SOLVER at a position, and sets the learning rates of that position.

    A schedule is a function of the config and the position alone, so no checkpoint holds it, and a
    run can be made longer when it is resumed.

    Args:
        cfg: the config.
        optimizer: what it is the schedule of.
        rates: each group's learning rate before the schedule.
        iterations: length of the schedule, in place of SOLVER.MAX_ITER.
        position: steps already taken, 0 .. ``iterations``.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = iterations
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = group["initial_lr"] = rate
    scheduler = build_lr_scheduler(cfg, optimizer)
    scheduler.last_epoch = position
    for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate
    return scheduler


__all__ = [
    "OPTIMIZERS",
    "build_lr_scheduler",
    "build_optimizer",
    "clip_each_gradient",
    "parameter_groups",
    "schedule_from",
]
