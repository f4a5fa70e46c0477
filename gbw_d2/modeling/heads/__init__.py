"""Heads that Detectron2 lacks; importing them fills Detectron2's SEM_SEG_HEADS_REGISTRY."""

from gbw_d2.modeling.heads.daformer import DAFormerHead
from gbw_d2.modeling.heads.deeplab_v2 import DeepLabV2Head
from gbw_d2.modeling.heads.segformer import SegFormerHead

__all__ = ["DAFormerHead", "DeepLabV2Head", "SegFormerHead"]
