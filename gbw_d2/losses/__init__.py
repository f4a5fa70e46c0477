"""Losses in plain PyTorch, with class weights and pixel weights."""

from gbw_d2.losses.adversarial import (
    ADVERSARIAL_LOSSES,
    adversarial_cross_entropy,
    adversarial_least_squares,
)
from gbw_d2.losses.cross_entropy import ClassWeightedCrossEntropy
from gbw_d2.losses.entropy import entropy_loss
from gbw_d2.losses.gbw_cross_entropy import GBWCrossEntropyLoss
from gbw_d2.losses.instance import (
    ClassWeightedCenterLoss,
    ClassWeightedInstanceLoss,
    ClassWeightedOffsetLoss,
    center_loss,
    offset_loss,
)
from gbw_d2.losses.max_squares import max_squares_loss
from gbw_d2.losses.query import ClassWeightedQueryClassification, ClassWeightedQueryMask
from gbw_d2.losses.roi import (
    ClassWeightedRoIBox,
    ClassWeightedRoIClassification,
    ClassWeightedRoIMask,
)
from gbw_d2.losses.upsampled import upsampled_cross_entropy
from gbw_d2.losses.weighted_loss import WeightedLoss, in_order
from gbw_d2.losses.weighted_losses import WeightedLosses

__all__ = [
    "ADVERSARIAL_LOSSES",
    "ClassWeightedCenterLoss",
    "ClassWeightedCrossEntropy",
    "ClassWeightedInstanceLoss",
    "ClassWeightedOffsetLoss",
    "ClassWeightedQueryClassification",
    "ClassWeightedQueryMask",
    "ClassWeightedRoIBox",
    "ClassWeightedRoIClassification",
    "ClassWeightedRoIMask",
    "GBWCrossEntropyLoss",
    "WeightedLoss",
    "WeightedLosses",
    "adversarial_cross_entropy",
    "adversarial_least_squares",
    "center_loss",
    "entropy_loss",
    "in_order",
    "max_squares_loss",
    "offset_loss",
    "upsampled_cross_entropy",
]
