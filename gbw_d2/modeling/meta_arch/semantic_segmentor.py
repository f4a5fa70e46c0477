"""GBWSemanticSegmentor: any Detectron2 backbone with any of its dense heads, no instances."""

from __future__ import annotations

from typing import Any

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.modeling.segmentor import DenseSegmentor

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY


@META_ARCH_REGISTRY.register()
class GBWSemanticSegmentor(DenseSegmentor):
    """Semantic segmentation only; arguments and outputs are those of :class:`DenseSegmentor`."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
