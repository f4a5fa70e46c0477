"""Builds Detectron2's heads; keys of which they cannot be built are reported in one line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.errors import UserError

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_sem_seg_head
from detectron2.projects.panoptic_deeplab import build_ins_embed_branch


@contextmanager
def built_by(node: str, *norms: str) -> Iterator[None]:
    """Reports failed assertions of Detectron2 and torch about the keys of a part in one line.

    Args:
        node: the config node that the part reads.
        norms: its key NORM, or those of all its parts.

    Raises:
        UserError: an assert failed, a part's name is unknown, or the norm is unknown or does not
            divide a width.
    """
    try:
        yield
    except UserError:
        raise
    except KeyError as error:
        # Detectron2's registries name themselves in the error of an unknown part.
        if "registry" in str(error):
            raise UserError(f"{node} cannot be built of its keys: {error.args[0]}") from error
        if error.args[0] not in norms:
            raise
        raise UserError(
            f"{node} has NORM '{error.args[0]}'; expected GN, or '' for none"
        ) from error
    except (AssertionError, ValueError) as error:
        hint = ""
        if "num_groups" in str(error):
            hint = "; with NORM GN its channels must be multiples of 32"
        # Many of Detectron2's assertions have no words; their code says what was expected.
        words = str(error) or traceback.extract_tb(error.__traceback__)[-1].line
        raise UserError(f"{node} cannot be built of its keys: {words}{hint}") from error


def build_semantic_head(cfg: Any, shape: Mapping[str, ShapeSpec]) -> nn.Module:
    """Builds the head that ``MODEL.SEM_SEG_HEAD`` names.

    Args:
        cfg: the config.
        shape: of the feature maps by name.

    Raises:
        UserError: it cannot be built, or is none whose classifier can be found.
    """
    keys = cfg.MODEL.SEM_SEG_HEAD
    with built_by("MODEL.SEM_SEG_HEAD", keys.NORM):
        head = build_sem_seg_head(cfg, shape)
    if not (hasattr(head, "layers") and hasattr(head, "predictor")):
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.NAME '{keys.NAME}' has no `layers` and `predictor`; use "
            "PanopticDeepLabSemSegHead, DeepLabV3PlusHead, DeepLabV2Head or SemSegFPNHead"
        )
    return head


def build_center_head(cfg: Any, shape: Mapping[str, ShapeSpec]) -> nn.Module:
    """Builds Panoptic-DeepLab's instance decoder, ``MODEL.INS_EMBED_HEAD``; as above."""
    with built_by("MODEL.INS_EMBED_HEAD", cfg.MODEL.INS_EMBED_HEAD.NORM):
        return build_ins_embed_branch(cfg, shape)
