"""Builds the network and its weighted losses from a config."""

from __future__ import annotations

import logging
import platform

import torch
from torch import nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.engine.precision import DTYPES, Precision
from gbw_d2.engine.weighted_losses import build_weighted_losses
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.losses import WeightedLosses
from gbw_d2.modeling.protocol import SegmentationModel
from gbw_d2.uda import loss_terms

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

logger = logging.getLogger(__name__)


def architecture(cfg: CfgNode) -> type[SegmentationModel]:
    """Returns the class that MODEL.META_ARCHITECTURE names."""
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)


def is_panoptic(cfg: CfgNode) -> bool:
    """Whether the network predicts instances, so that labels need them and PQ is computed."""
    return architecture(cfg).predicts_instances(cfg)


def build_training_losses(cfg: CfgNode, class_counts: torch.Tensor | None = None) -> WeightedLosses:
    """Builds the loss of each head of the network, with the class weights of WEIGHTING.

    Args:
        cfg: the config.
        class_counts: (K,) labelled pixels of the source by class id, for schemes that need them
            (:attr:`gbw_d2.engine.run_data.RunData.weighting_counts`).
    """
    space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
    terms = loss_terms(cfg.UDA.NAME, cfg.UDA)
    losses = build_weighted_losses(cfg, architecture(cfg), space, class_counts, terms)
    return losses.to(torch.device(cfg.MODEL.DEVICE))


def build_model(cfg: CfgNode, weighted_losses: WeightedLosses | None = None) -> nn.Module:
    """Builds MODEL.META_ARCHITECTURE on MODEL.DEVICE.

    Args:
        cfg: the config.
        weighted_losses: the result of :func:`build_training_losses`; None for losses without class
            weights.
    """
    losses = {} if weighted_losses is None else {"weighted_losses": weighted_losses}
    device = torch.device(cfg.MODEL.DEVICE)
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg, **losses)
    # The losses are not part of the network, so moving the network does not move them.
    model.weighted_losses.to(device)
    return model.to(device)


def has_native_bfloat16() -> bool:
    """Returns whether the CPU computes in bfloat16 natively; True if PyTorch cannot tell."""
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return asked is None or platform.machine() not in ("x86_64", "AMD64") or bool(asked())


def build_precision(cfg: CfgNode) -> Precision:
    """Builds the precision that SOLVER.AMP configures."""
    amp = cfg.SOLVER.AMP
    device_type = torch.device(cfg.MODEL.DEVICE).type
    on_cpu = amp.ENABLED and device_type == "cpu"
    if on_cpu and amp.DTYPE == "float16":
        logger.warning(
            "SOLVER.AMP.DTYPE is float16, but steps on a processor were 120 times slower in it "
            "than in float32; SOLVER.AMP.ENABLED False"
        )
    elif on_cpu and not has_native_bfloat16():
        logger.warning(
            "SOLVER.AMP is on, but this processor has no native half precision: steps were 2.4 "
            "times (AVX-512) to 17 times (AVX2) slower on such ones than in float32; "
            "SOLVER.AMP.ENABLED False"
        )
    return Precision(device_type, DTYPES.get(amp.DTYPE) if amp.ENABLED else None)
