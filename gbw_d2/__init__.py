"""Panoptic and semantic segmentation across domains, with gradient-based class weighting (GBW)."""

__version__ = "0.1.0"
