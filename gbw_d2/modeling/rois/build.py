"""Builds Detectron2's RPN and RoI heads for the things of a label space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import LabelSpace
from gbw_d2.modeling.heads.build import built_by
from gbw_d2.modeling.rois.settings import with_things

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_proposal_generator, build_roi_heads


def build_roi_branch(
    cfg: Any, space: LabelSpace, shape: Mapping[str, ShapeSpec]
) -> tuple[nn.Module, nn.Module]:
    """Builds the RPN and the RoI heads.

    Args:
        cfg: the config.
        space: the heads' classes are its things.
        shape: of the pyramid's maps by name.

    Raises:
        UserError: keys contradict each other or the label space, or name maps that are not there.
    """
    cfg = with_things(cfg, space)
    for node in ("RPN", "ROI_HEADS"):
        names = cfg.MODEL[node].IN_FEATURES
        if not names or any(name not in shape for name in names):
            raise UserError(
                f"MODEL.{node}.IN_FEATURES is {list(names)}; the feature pyramid gives "
                f"{', '.join(shape)}"
            )
    with built_by("MODEL.RPN or MODEL.ANCHOR_GENERATOR"):
        rpn = build_proposal_generator(cfg, shape)
    norms = cfg.MODEL.ROI_BOX_HEAD.NORM, cfg.MODEL.ROI_MASK_HEAD.NORM
    with built_by("MODEL.ROI_HEADS, MODEL.ROI_BOX_HEAD or MODEL.ROI_MASK_HEAD", *norms):
        heads = build_roi_heads(cfg, shape)
    return rpn, heads
