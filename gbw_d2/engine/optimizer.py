"""Optimisers by name, with one learning rate for the backbone and one for the rest."""

from __future__ import annotations

from collections.abc import Callable
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


@OPTIMIZERS.register("ADAM")
def _adam(groups: list[dict[str, Any]], solver: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, solver.BASE_LR)


@OPTIMIZERS.register("ADAMW")
def _adamw(groups: list[dict[str, Any]], solver: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, solver.BASE_LR)


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
    return maybe_add_gradient_clipping(cfg, optimizer)


class SchedulePosition:
    """What a checkpoint holds of a schedule: where it is; the config says what it is.

    Detectron2's polynomial schedule would bring back its old length, and a run could not be made
    longer.

    Args:
        scheduler: the schedule of a run.
    """

    def __init__(self, scheduler: torch.optim.lr_scheduler.LRScheduler) -> None:
        self.scheduler = scheduler

    def state_dict(self) -> dict[str, int]:
        """Returns the number of steps taken."""
        return {"last_epoch": self.scheduler.last_epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to the step that ``state_dict`` gave, and sets the learning rates of that step."""
        self.scheduler.last_epoch = state["last_epoch"]
        rates = self.scheduler.get_lr()
        for group, rate in zip(self.scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


__all__ = [
    "OPTIMIZERS",
    "SchedulePosition",
    "build_lr_scheduler",
    "build_optimizer",
    "parameter_groups",
]
