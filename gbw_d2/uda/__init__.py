"""Adaptation strategies, one file each; importing them fills the registry ``STRATEGIES``."""

from gbw_d2.uda import (
    adversarial,
    cbst,
    cvrn,
    mask_teacher,
    max_squares,
    min_entropy,
    self_training,
    source_only,
)
from gbw_d2.uda.build import build_strategy, check_thresholds, loss_terms
from gbw_d2.uda.stages import Context, Stage
from gbw_d2.uda.strategy import STRATEGIES, ExtraOptimizer, RunSettings, Strategy

__all__ = [
    "STRATEGIES",
    "Context",
    "ExtraOptimizer",
    "RunSettings",
    "Stage",
    "Strategy",
    "adversarial",
    "build_strategy",
    "cbst",
    "check_thresholds",
    "cvrn",
    "loss_terms",
    "mask_teacher",
    "max_squares",
    "min_entropy",
    "self_training",
    "source_only",
]
