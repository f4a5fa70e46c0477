"""Losses on plain torch; class weights and pixel weights come in as arguments."""

from gbw_d2.losses.cross_entropy import ClassWeightedCrossEntropy, LastCall
from gbw_d2.losses.entropy import entropy_loss
from gbw_d2.losses.gbw_cross_entropy import GBWCrossEntropyLoss
from gbw_d2.losses.instance import center_loss, offset_loss
from gbw_d2.losses.max_squares import max_squares_loss
from gbw_d2.losses.plain import plain_cross_entropy

__all__ = [
    "ClassWeightedCrossEntropy",
    "GBWCrossEntropyLoss",
    "LastCall",
    "center_loss",
    "entropy_loss",
    "max_squares_loss",
    "offset_loss",
    "plain_cross_entropy",
]
