"""Which encoder bases a model base refuses."""

from __future__ import annotations

# Dilated for DeepLab: their last maps share a stride, so that no feature pyramid stands on them.
_DILATED = ("resnet50", "resnet50_scratch", "resnet101_caffe")
# The tiny pyramid begins at stride 2, where Detectron2's ResNets have no map.
_REFUSED = {
    **dict.fromkeys(("panoptic_fpn", "panoptic_edaps", "panoptic_edaps_tiny"), _DILATED),
    "panoptic_fpn_tiny": (*_DILATED, "resnet50_stride32"),
}


def is_refused(encoder: str, model: str) -> bool:
    """True where the two do not fit, which one line of an error says."""
    return encoder in _REFUSED.get(model, ())
