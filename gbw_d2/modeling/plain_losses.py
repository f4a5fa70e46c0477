"""The losses of a network whose class weights are all 1: what it has by default."""

from __future__ import annotations

from collections.abc import Mapping

from gbw_d2.losses import WeightedLosses
from gbw_d2.modeling.protocol import HeadSpec
from gbw_d2.weighting import build_scheme


def plain_losses(heads: Mapping[str, HeadSpec], num_classes: int) -> WeightedLosses:
    """Builds the loss of each head with scheme "none".

    Args:
        heads: of the network.
        num_classes: K of the label space.
    """
    return WeightedLosses(
        {
            name: head.loss(
                build_scheme("none", len(head.class_ids)), head.class_ids, num_classes, name
            )
            for name, head in heads.items()
        }
    )
