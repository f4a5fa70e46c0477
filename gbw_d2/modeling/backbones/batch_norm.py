"""Batch norm in an encoder: statistics that are frozen, or group norm in its place.

Statistics of a batch would depend on what shares it: several processes, parts of a batch, and
source and target in one batch would not give what one process gives.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Returns the batch norms of a module; timm's are torch's with an activation added."""
    return [each for each in module.modules() if isinstance(each, _BatchNorm)]


def groups_for(channels: int) -> int:
    """Returns 32 groups where 64 channels or more allow it, else the most of 4 channels or more."""
    if channels % 32 == 0 and channels >= 64:
        return 32
    return max(g for g in range(1, max(2, channels // 4 + 1)) if channels % g == 0)


class _GroupNormWithActivation(nn.GroupNorm):
    """A group norm with what timm's batch norm does after it."""

    def __init__(self, groups: int, channels: int, eps: float, drop: nn.Module, act: nn.Module):
        super().__init__(groups, channels, eps)
        self.drop = drop
        self.act = act

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.act(self.drop(super().forward(x)))


def batch_to_group_norm(module: nn.Module) -> None:
    """Replaces every batch norm by a group norm (Wu and He, ECCV 2018), in place.

    Scales and shifts are taken over, so that a layer that starts at zero still does.
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
