"""Small encoders of every kind, and a function that builds a backbone from MODEL.TIMM keys."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def timm_config() -> Any:
    """Returns a function: keys of MODEL.TIMM -> config of a timm backbone without other weights."""
    from gbw_d2.config import add_gbw_config

    from detectron2.config import get_cfg

    def make(**keys: Any) -> Any:
        cfg = get_cfg()
        add_gbw_config(cfg)
        cfg.MODEL.WEIGHTS = ""
        for name, value in keys.pop("ARGS", {}).items():
            cfg.MODEL.TIMM.ARGS[name] = value
        for name, value in keys.items():
            cfg.MODEL.TIMM[name] = value
        return cfg

    return make


@pytest.fixture
def build(timm_config: Any) -> Any:
    """Returns a function: keys of MODEL.TIMM -> backbone."""
    from gbw_d2.modeling.backbones import build_timm_backbone

    from detectron2.layers import ShapeSpec

    return lambda **keys: build_timm_backbone(timm_config(**keys), ShapeSpec(channels=3))
