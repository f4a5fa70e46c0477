"""The default losses of a network, without class weights."""

from __future__ import annotations

from collections.abc import Mapping

from gbw_d2.losses import WeightedLosses
from gbw_d2.modeling.protocol import HeadSpec
from gbw_d2.weighting import build_scheme


def plain_losses(heads: Mapping[str, HeadSpec], num_classes: int) -> WeightedLosses:
    """Builds the loss of each head with scheme "none".

    Args:
        heads: the heads of the network by name.
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
