"""PQ and mIoU under named protocols; only the evaluators need Detectron2."""

from gbw_d2.evaluation.panoptic_quality import PanopticQuality
from gbw_d2.evaluation.protocols import PROTOCOLS, Protocol, protocols_of
from gbw_d2.evaluation.report import format_table, merge_per_class
from gbw_d2.evaluation.semantic_iou import ConfusionMatrix

__all__ = [
    "PROTOCOLS",
    "ConfusionMatrix",
    "PanopticQuality",
    "Protocol",
    "format_table",
    "merge_per_class",
    "protocols_of",
]
