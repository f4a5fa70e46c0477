"""Adaptation strategies, one file each; importing one enters it into ``STRATEGIES``."""

from gbw_d2.uda import min_entropy, source_only
from gbw_d2.uda.strategy import STRATEGIES, Strategy, build_strategy

__all__ = ["STRATEGIES", "Strategy", "build_strategy", "min_entropy", "source_only"]
