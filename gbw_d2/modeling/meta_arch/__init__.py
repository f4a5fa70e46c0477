"""Architectures, one file each; importing them fills Detectron2's META_ARCH_REGISTRY."""

from gbw_d2.modeling.meta_arch.hrda import GBWHRDA
from gbw_d2.modeling.meta_arch.mask2former import GBWMask2Former
from gbw_d2.modeling.meta_arch.panoptic_deeplab import GBWPanopticDeepLab
from gbw_d2.modeling.meta_arch.panoptic_fpn import GBWPanopticFPN
from gbw_d2.modeling.meta_arch.semantic_segmentor import GBWSemanticSegmentor

__all__ = [
    "GBWHRDA",
    "GBWMask2Former",
    "GBWPanopticDeepLab",
    "GBWPanopticFPN",
    "GBWSemanticSegmentor",
]
