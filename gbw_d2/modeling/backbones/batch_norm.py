"""Replacement of batch norm in an encoder: frozen statistics or group norm.

Batch statistics would depend on the other images of a batch, so that results would depend on the
number of processes, on gradient accumulation, and on source and target sharing a batch.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Returns the batch norms of a module; timm's include an activation."""
    return [each for each in module.modules() if isinstance(each, _BatchNorm)]


def groups_for(channels: int) -> int:
    """Returns 32 groups for 64 channels or more, else the most groups of at least 4 channels."""
    if channels % 32 == 0 and channels >= 64:
        return 32
    return max(g for g in range(1, max(2, channels // 4 + 1)) if channels % g == 0)


class _GroupNormWithActivation(nn.GroupNorm):
    """A group norm followed by the activation of timm's batch norm."""

    def __init__(self, groups: int, channels: int, eps: float, drop: nn.Module, act: nn.Module):
        super().__init__(groups, channels, eps)
        self.drop = drop
        self.act = act

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.act(self.drop(super().forward(x)))


def batch_to_group_norm(module: nn.Module) -> None:
    """Replaces every batch norm by a group norm (Wu and He, ECCV 2018), in place.

    Scales and shifts are copied, so that layers that are initialised to zero stay so.
    """
    for name, child in module.named_children():
        if not isinstance(child, _BatchNorm):
            batch_to_group_norm(child)
            continue
        groups = groups_for(child.num_features)
        if hasattr(child, "act"):
            new: nn.GroupNorm = _GroupNormWithActivation(
                groups, child.num_features, child.eps, child.drop, child.act
            )
        else:
            new = nn.GroupNorm(groups, child.num_features, child.eps)
        new.weight, new.bias = child.weight, child.bias
        setattr(module, name, new)
