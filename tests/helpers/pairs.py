"""The pairs of encoder and model bases that are refused."""

from __future__ import annotations

# Dilated for DeepLab: their last maps have equal strides, so no feature pyramid can use them.
_DILATED = ("resnet50", "resnet50_scratch", "resnet101_caffe")
# The tiny pyramid begins at stride 2, where Detectron2's ResNets have no map.
_REFUSED = {
    **dict.fromkeys(("panoptic_fpn", "panoptic_edaps", "panoptic_edaps_tiny"), _DILATED),
    "panoptic_fpn_tiny": (*_DILATED, "resnet50_stride32"),
}


def is_refused(encoder: str, model: str) -> bool:
    """Returns whether the two do not fit, so that an error of one line is expected."""
    return encoder in _REFUSED.get(model, ())
