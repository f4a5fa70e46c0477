"""Heads that Detectron2 lacks; importing one enters it into its SEM_SEG_HEADS_REGISTRY."""

from gbw_d2.modeling.heads.deeplab_v2 import DeepLabV2Head

__all__ = ["DeepLabV2Head"]
