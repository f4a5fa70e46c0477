"""Keys of which Detectron2's heads cannot be built are reported in one line, before training."""

from __future__ import annotations

from typing import Any

import pytest

from gbw_d2.engine.build import build_model
from gbw_d2.errors import UserError

SEMANTIC, CENTERS = "MODEL.SEM_SEG_HEAD", "MODEL.INS_EMBED_HEAD"
ROIS = "MODEL.ROI_BOX_HEAD or MODEL.ROI_MASK_HEAD"


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
    ],
)
def test_one_line(tiny_config: Any, leaf: str, key: str, value: Any, words: str) -> None:
    cfg = tiny_config(key, value, name=f"toy/{leaf}")
    with pytest.raises(UserError, match=words) as told:
        build_model(cfg)
    assert "\n" not in str(told.value)
