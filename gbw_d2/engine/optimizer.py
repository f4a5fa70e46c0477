"""Optimisers by name, and the learning rate and weight decay of each parameter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.registry import Registry

from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping, reduce_param_groups

logger = logging.getLogger(__name__)

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)

OptimizerFactory = Callable[[list[dict[str, Any]], Any], torch.optim.Optimizer]
OPTIMIZERS: Registry[OptimizerFactory] = Registry("optimiser (SOLVER.OPTIMIZER)")


@OPTIMIZERS.register("SGD")
def _sgd(groups: list[dict[str, Any]], solver: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups, solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
    )


# All parameters are updated in one pass, because separate updates take a large part of a small
# network's step.
@OPTIMIZERS.register("ADAM")
def _adam(groups: list[dict[str, Any]], solver: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, solver.BASE_LR, fused=True)


@OPTIMIZERS.register("ADAMW")
def _adamw(groups: list[dict[str, Any]], solver: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, solver.BASE_LR, fused=True)


def parameter_groups(model: nn.Module, solver: Any) -> list[dict[str, Any]]:
    """Splits the trainable parameters into groups with the same learning rate and weight decay.

    Args:
        model: a network. Its ``backbone`` is trained at ``BASE_LR``, everything else, and the
            backbone's ``adapters``, at ``BASE_LR * HEAD_LR_FACTOR``. A backbone can also define how
            many layers a parameter is from its output (``steps_from_output``), and which parameters
            are position tables (``undecayed``).
        solver: the config's ``SOLVER`` node.

    Returns:
        groups that hold each trainable parameter exactly once.

    Raises:
        ConfigError: LAYER_DECAY is set, but the backbone does not define its layers.
    """
    said = _what_backbones_say(model.backbone)
    if solver.LAYER_DECAY != 1.0 and not said.steps:
        raise ConfigError(
            f"SOLVER.LAYER_DECAY is {solver.LAYER_DECAY}, but {type(model.backbone).__name__} does "
            "not say how far its layers are from the output; set it to 1.0, or MODEL.BACKBONE.NAME "
            "to build_timm_backbone"
        )
    heads = nn.ModuleList([m for name, m in model.named_children() if name != "backbone"])
    head_rate = solver.BASE_LR * solver.HEAD_LR_FACTOR
    backbone_groups = [
        {
            "params": [parameter],
            "lr": head_rate
            if name in said.adapters
            else solver.BASE_LR * solver.LAYER_DECAY ** said.steps.get(name, 0),
            "weight_decay": _weight_decay(module, name, name in said.tables, solver),
        }
        for module, name, parameter in _trainable(model.backbone)
    ]
    head_groups = [
        {
            "params": [parameter],
            "lr": head_rate,
            "weight_decay": _weight_decay(module, name, False, solver),
        }
        for module, name, parameter in _trainable(heads)
    ]
    groups = reduce_param_groups(backbone_groups) + reduce_param_groups(head_groups)
    held = sum(len(g["params"]) for g in groups)
    trainable = sum(p.requires_grad for p in model.parameters())
    assert held == trainable, f"{held} parameters in groups, {trainable} trainable"
    return groups


@dataclass(frozen=True)
class _Said:
    """The backbones' declarations about their parameters, by parameter name."""

    steps: dict[str, int]
    adapters: set[str]
    tables: set[str]


def _what_backbones_say(backbone: nn.Module) -> _Said:
    said = _Said({}, set(), set())
    # The backbone with these declarations may be wrapped in a feature pyramid.
    for prefix, module in backbone.named_modules():
        start = f"{prefix}." if prefix else ""
        steps = getattr(module, "steps_from_output", {})
        said.steps.update({start + name: count for name, count in steps.items()})
        said.adapters.update(start + name for name in getattr(module, "adapters", ()))
        said.tables.update(start + name for name in getattr(module, "undecayed", ()))
    return said


def _trainable(part: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Lists (owning module, name, parameter), each parameter once."""
    found: dict[nn.Parameter, tuple[nn.Module, str]] = {}
    for prefix, module in part.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                found.setdefault(parameter, (module, f"{prefix}.{name}" if prefix else name))
    return [(module, name, parameter) for parameter, (module, name) in found.items()]


def _weight_decay(module: nn.Module, name: str, is_table: bool, solver: Any) -> float:
    # As in Detectron2, the keys for biases also hold for the biases of norms. None = as for other
    # parameters.
    rules = (
        (is_table, solver.WEIGHT_DECAY_TABLES),
        (name.rpartition(".")[2] == "bias", solver.WEIGHT_DECAY_BIAS),
        (isinstance(module, _NORMS), solver.WEIGHT_DECAY_NORM),
        (isinstance(module, nn.Embedding), solver.WEIGHT_DECAY_EMBEDDINGS),
    )
    decays = [decay for applies, decay in rules if applies and decay is not None]
    return decays[0] if decays else solver.WEIGHT_DECAY


def group_table(model: nn.Module, groups: Sequence[Mapping[str, Any]]) -> str:
    """Returns a text table of an optimiser's groups with rate, decay, size and parameters."""
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    rows = [("rate", "decay", "tensors", "parameters", "names")]
    for group in groups:
        held = group["params"]
        numbers = (f"{group['lr']:.3g}", f"{group['weight_decay']:.3g}", str(len(held)))
        count = f"{sum(p.numel() for p in held):,}"
        rows.append((*numbers, count, f"{name_of[held[0]]} .. {name_of[held[-1]]}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(c.rjust(w) for c, w in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """Builds ``SOLVER.OPTIMIZER``, with gradient clipping if it is enabled."""
    factory = OPTIMIZERS.get(cfg.SOLVER.OPTIMIZER)
    groups = parameter_groups(model, cfg.SOLVER)
    logger.info("Parameter groups:\n%s", group_table(model, groups))
    optimizer = factory(groups, cfg.SOLVER)
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE not in CLIPPING:
        return maybe_add_gradient_clipping(cfg, optimizer)
    apply = CLIPPING[clip.CLIP_TYPE]

    def clip_before(stepping: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        parameters = (p for group in stepping.param_groups for p in group["params"])
        apply(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)

    optimizer.register_step_pre_hook(clip_before)
    return optimizer


@torch.no_grad()
def clip_each_gradient(
    parameters: Iterable[nn.Parameter], max_norm: float, norm_type: float = 2.0
) -> None:
    """Clips the norm of each gradient separately, in place, as Detectron2's type ``norm`` does.

    Detectron2 calls ``clip_grad_norm_`` once per parameter, which launches a thousand small kernels
    per step. Here all gradients are processed together.

    Args:
        parameters: the parameters; those without a gradient are skipped.
        max_norm: maximum norm of one gradient.
        norm_type: order of the norm, 2 for the Euclidean norm.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        norms = torch.stack(torch._foreach_norm(gradients, norm_type))
        torch._foreach_mul_(gradients, (max_norm / (norms + 1e-6)).clamp_(max=1.0).unbind())


# Clipping types that Detectron2 lacks or implements slowly. full_model, the name in Mask2Former's
# scripts, clips the norm of all gradients together.
CLIPPING: dict[str, Callable[[Iterable[nn.Parameter], float, float], object]] = {
    "norm": clip_each_gradient,
    "full_model": torch.nn.utils.clip_grad_norm_,
}


def schedule_from(
    cfg: Any,
    optimizer: torch.optim.Optimizer,
    rates: Sequence[float],
    iterations: int,
    position: int,
) -> torch.optim.lr_scheduler.LRScheduler:
    """Builds SOLVER's learning-rate schedule at a position, and sets the learning rates.

    A schedule depends only on the config and the position, so checkpoints do not hold it, and a run
    can be extended when it is resumed.

    Args:
        cfg: the config.
        optimizer: the optimiser whose learning rates are scheduled.
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
    "group_table",
    "parameter_groups",
    "schedule_from",
]
