"""Keys of which Detectron2's heads cannot be built are reported in one line, before training."""

from __future__ import annotations

from typing import Any

import pytest

from gbw_d2.engine.build import build_model
from gbw_d2.errors import UserError

SEMANTIC, CENTERS = "MODEL.SEM_SEG_HEAD", "MODEL.INS_EMBED_HEAD"
ROIS = "MODEL.ROI_HEADS, MODEL.ROI_BOX_HEAD or MODEL.ROI_MASK_HEAD"
RPN, ANCHORS = "MODEL.RPN or MODEL.ANCHOR_GENERATOR", "MODEL.ANCHOR_GENERATOR"
PYRAMID = "the feature pyramid gives p1, p2, p3, p4, p5"


@pytest.mark.parametrize(
    ("leaf", "key", "value", "words"),
    [
        ("panoptic_gbw", f"{SEMANTIC}.ASPP_DILATIONS", [1, 2], f"{SEMANTIC} cannot .* 3 dilations"),
        ("panoptic_gbw", f"{CENTERS}.ASPP_DILATIONS", [1, 2], f"{CENTERS} cannot .* 3 dilations"),
        (
            "panoptic_gbw",
            f"{SEMANTIC}.PROJECT_CHANNELS",
            [32],
            f"{SEMANTIC} cannot .* project_",
        ),
        ("panoptic_gbw", f"{SEMANTIC}.CONVS_DIM", 30, f"{SEMANTIC} cannot .* NORM GN .* 32"),
        ("panoptic_gbw", f"{CENTERS}.HEAD_CHANNELS", 30, f"{CENTERS} cannot .* NORM GN .* 32"),
        ("panoptic_gbw", f"{SEMANTIC}.NORM", "XX", f"{SEMANTIC} has NORM 'XX'; expected GN"),
        ("panoptic_fpn_gbw", "MODEL.FPN.OUT_CHANNELS", 30, "MODEL.FPN cannot .* NORM GN .* 32"),
        ("panoptic_fpn_gbw", "MODEL.FPN.NORM", "XX", "MODEL.FPN has NORM 'XX'"),
        ("panoptic_fpn_gbw", "MODEL.ROI_MASK_HEAD.NORM", "XX", f"{ROIS} has NORM 'XX'"),
        ("panoptic_fpn_gbw", "MODEL.ROI_BOX_HEAD.NAME", "Xx", f"{ROIS} cannot .* 'Xx' .* registry"),
        (
            "panoptic_fpn_gbw",
            "MODEL.ROI_HEADS.IOU_THRESHOLDS",
            [0.3, 0.5],
            f"{ROIS} cannot .* assert len",
        ),
        ("panoptic_fpn_gbw", "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p9"], f"'p9'.*{PYRAMID}"),
        ("panoptic_fpn_gbw", "MODEL.RPN.IN_FEATURES", ["p9"], f"'p9'.*{PYRAMID}"),
        ("panoptic_fpn_gbw", f"{ANCHORS}.SIZES", [[8], [16]], f"{RPN} cannot .* sizes of length 2"),
        (
            "panoptic_fpn_gbw",
            f"{ANCHORS}.ASPECT_RATIOS",
            [[0.5], [1.0]],
            f"{RPN} cannot .* aspect_ratios of length 2",
        ),
    ],
)
def test_one_line(tiny_config: Any, leaf: str, key: str, value: Any, words: str) -> None:
    cfg = tiny_config(key, value, name=f"toy/{leaf}")
    with pytest.raises(UserError, match=words) as told:
        build_model(cfg)
    assert "\n" not in str(told.value)
