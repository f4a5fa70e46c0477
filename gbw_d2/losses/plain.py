"""Losses with all class weights 1: what a network uses that is given no other criterion."""

from __future__ import annotations

from collections.abc import Sequence

from gbw_d2.losses.cross_entropy import ClassWeightedCrossEntropy
from gbw_d2.losses.instance import (
    ClassWeightedCenterLoss,
    ClassWeightedInstanceLoss,
    ClassWeightedOffsetLoss,
)
from gbw_d2.weighting import build_scheme


def plain_cross_entropy(num_classes: int) -> ClassWeightedCrossEntropy:
    """Returns cross-entropy with all class weights 1, by the same code as every other scheme."""
    return ClassWeightedCrossEntropy(build_scheme("none", num_classes))


def plain_instance_losses(
    class_ids: Sequence[int], num_classes: int
) -> dict[str, ClassWeightedInstanceLoss]:
    """Returns the losses of the heads "center" and "offset" with all class weights 1.

    Args:
        class_ids: class ids of the things.
        num_classes: K.
    """
    return {
        head: loss(build_scheme("none", len(class_ids)), class_ids, num_classes)
        for head, loss in (("center", ClassWeightedCenterLoss), ("offset", ClassWeightedOffsetLoss))
    }
