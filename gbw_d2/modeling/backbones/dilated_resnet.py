"""The ResNet of Detectron2's DeepLab with its stem as an output, for heads that need finer maps."""

from __future__ import annotations

from typing import Any

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import ResNet
from detectron2.projects.deeplab import build_resnet_deeplab_backbone

STEM = "stem"


@BACKBONE_REGISTRY.register()
def build_dilated_resnet_backbone(cfg: Any, input_shape: ShapeSpec) -> ResNet:
    """Builds Detectron2's ``build_resnet_deeplab_backbone``, but allows ``stem`` as an output.

    Args:
        cfg: reads ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT`` like Detectron2's function.
        input_shape: channels of the image.
    """
    names = list(cfg.MODEL.RESNETS.OUT_FEATURES)
    stages = cfg.clone()
    stages.defrost()
    stages.MODEL.RESNETS.OUT_FEATURES = [name for name in names if name != STEM]
    backbone = build_resnet_deeplab_backbone(stages, input_shape)
    # The network computes this map anyway; here it becomes an output.
    backbone._out_features = names
    return backbone
