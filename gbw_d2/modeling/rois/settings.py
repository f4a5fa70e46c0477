"""Sets the keys of Detectron2's RoI heads for a label space."""

from __future__ import annotations

from typing import Any

from gbw_d2.errors import UserError
from gbw_d2.label_spaces import LabelSpace
from gbw_d2.modeling.capabilities import ClassRows

# The classifiers of Detectron2's RoI heads; rows of the background come last.
ROI_ROWS = {
    "cls_score": ClassRows(things=True, more=1),
    "bbox_pred": ClassRows(things=True, each=4),
    "mask_head.predictor": ClassRows(things=True),
}
# Detectron2's default number of classes, which marks a value that was not set.
_UNSET_CLASSES = 80


def with_things(cfg: Any, space: LabelSpace) -> Any:
    """Returns a config whose RoI heads have the label space's things as classes.

    Raises:
        UserError: keys contradict the label space, or are not supported by the losses.
    """
    number = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if number not in (_UNSET_CLASSES, len(space.thing_ids)):
        raise UserError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {number}, but label space '{space.name}' has "
            f"{len(space.thing_ids)} things; leave it out"
        )
    box, rpn, anchors = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.RPN, cfg.MODEL.ANCHOR_GENERATOR
    for key, value, expected in (
        ("MODEL.MASK_ON", cfg.MODEL.MASK_ON, True),
        ("MODEL.ROI_HEADS.NAME", cfg.MODEL.ROI_HEADS.NAME, "StandardROIHeads"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", cfg.MODEL.PROPOSAL_GENERATOR.NAME, "RPN"),
        ("MODEL.ANCHOR_GENERATOR.NAME", anchors.NAME, "DefaultAnchorGenerator"),
        ("MODEL.RPN.BBOX_REG_LOSS_TYPE", rpn.BBOX_REG_LOSS_TYPE, "smooth_l1"),
        ("MODEL.RPN.BOUNDARY_THRESH", rpn.BOUNDARY_THRESH, -1),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", box.BBOX_REG_LOSS_TYPE, "smooth_l1"),
        ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", box.TRAIN_ON_PRED_BOXES, False),
    ):
        if value != expected:
            raise UserError(f"{key} is {value!r}; GBWPanopticFPN knows {expected!r} alone")
    changed = cfg.clone()
    changed.defrost()
    changed.MODEL.ROI_HEADS.NUM_CLASSES = len(space.thing_ids)
    return changed
