"""Panoptic and semantic segmentation across domains, with gradient-based class weighting (GBW)."""

__version__ = "1.0.0"
