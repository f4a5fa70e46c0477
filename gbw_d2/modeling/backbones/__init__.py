"""Backbones that Detectron2 lacks; importing them fills Detectron2's BACKBONE_REGISTRY."""

from gbw_d2.modeling.backbones.dilated_resnet import build_dilated_resnet_backbone
from gbw_d2.modeling.backbones.small_resnet import build_small_resnet_backbone
from gbw_d2.modeling.backbones.timm_backbone import build_timm_backbone

__all__ = [
    "build_dilated_resnet_backbone",
    "build_small_resnet_backbone",
    "build_timm_backbone",
]
