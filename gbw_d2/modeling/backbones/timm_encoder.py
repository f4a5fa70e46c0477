"""Creates an encoder of timm and determines its maps, their strides and its accepted sizes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gbw_d2.errors import UserError

# Tried in turn: encoders with a fixed image size often have a switch to accept any size. Swin then
# keeps the windows of the size that it was created for, and without the second switch its last
# stage shifts none (findings/timm_swin_dynamic_size.sh).
_ADAPTATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"dynamic_img_size": True, "always_partition": True},
    {"dynamic_img_size": True},
)
# The method of timm's encoders for dense prediction, which few encoders lack.
_NEEDED = ("forward_intermediates", "prune_intermediate_layers", "group_matcher")


@dataclass(frozen=True)
class EncoderMap:
    """A feature map: its index in timm's ``feature_info``, channels, and stride in pixels."""

    index: int
    channels: int
    stride: int


@dataclass(frozen=True)
class TimmEncoder:
    """An encoder of timm and the properties of its maps.

    Attributes:
        module: the encoder without its classifier, with random weights.
        arguments: all arguments it was created with, from which an equal encoder can be created.
        maps: all of its maps, in its order.
        size_multiple: accepted rows and columns are multiples of this.
    """

    module: nn.Module
    arguments: dict[str, Any]
    maps: tuple[EncoderMap, ...]
    size_multiple: int

    @property
    def is_plain(self) -> bool:
        """Whether it is a plain vision transformer, whose blocks all have the same stride."""
        return len({each.stride for each in self.maps}) == 1


def create_encoder(name: str, arguments: Mapping[str, Any]) -> TimmEncoder:
    """Creates an encoder of timm with random weights, and determines the properties of its maps.

    The accepted sizes are found by running it on PyTorch's meta device, without memory.

    Args:
        name: name of timm's model, with or without a tag.
        arguments: passed on to ``timm.create_model``.

    Raises:
        UserError: an unknown model, arguments that it does not accept, or no spatial maps for
            images of any size.
    """
    import timm

    from gbw_d2.modeling.backbones.swin import pad_then_shift

    check_name(name)
    reason = "it gives no feature maps"
    for extra in _ADAPTATIONS:
        keywords = {"num_classes": 0, **arguments, **extra}
        try:
            with torch.device("meta"):
                probe = timm.create_model(name, pretrained=False, **keywords).eval()
        except Exception as error:
            # timm's classes may raise any exception on unknown arguments.
            if extra:
                continue
            raise UserError(
                f"MODEL.TIMM.NAME '{name}' cannot be created with MODEL.TIMM.ARGS "
                f"{dict(arguments)}: {_first_line(error)}"
            ) from error
        maps = _maps(probe)
        for multiple in _multiples(probe, maps):
            misfit = _misfit(probe, maps, multiple)
            if misfit is None:
                module = timm.create_model(name, pretrained=False, **keywords)
                return TimmEncoder(pad_then_shift(module), keywords, maps, multiple)
            reason = misfit
    raise UserError(
        f"MODEL.TIMM.NAME '{name}' has no spatial maps for pictures of any size ({reason}); "
        "choose another, for example convnext_tiny, pvt_v2_b2 or vit_small_patch16_dinov3"
    )


def check_name(name: str) -> None:
    """Raises UserError, with similar names, if timm has no model of this name."""
    import timm

    if not name:
        raise UserError(
            "MODEL.BACKBONE.NAME is build_timm_backbone, but MODEL.TIMM.NAME is ''; set it to one "
            "of timm.list_models()"
        )
    base, _, tag = name.partition(".")
    if ":" in name or not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(
            f"MODEL.TIMM.NAME '{name}' is no model of timm {timm.__version__}{hint} "
            "(timm.list_models() lists them)"
        )
    known = [entry.partition(".")[2] for entry in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in known:
        raise UserError(
            f"MODEL.TIMM.NAME '{name}': timm {timm.__version__} has no weights '{tag}' of {base} "
            f"(it has {', '.join(known) or 'none'})"
        )


def _maps(encoder: nn.Module) -> tuple[EncoderMap, ...]:
    if not all(hasattr(encoder, name) for name in _NEEDED):
        return ()
    return tuple(
        EncoderMap(index, info["num_chs"], info["reduction"])
        for index, info in enumerate(getattr(encoder, "feature_info", ()))
    )


def _multiples(encoder: nn.Module, maps: Sequence[EncoderMap]) -> list[int]:
    """Returns candidates for ``size_multiple``: the last stride, and the size of windows."""
    strides = {each.stride for each in maps}
    # The pyramid of a plain encoder extends to stride 32.
    last = math.lcm(32, *strides) if len(strides) == 1 else max(strides, default=0)
    trained = encoder.pretrained_cfg.get("input_size", (3, 0, 0))[-1]
    return [multiple for multiple in (last, trained) if multiple > 0]


@torch.no_grad()
def _misfit(encoder: nn.Module, maps: Sequence[EncoderMap], multiple: int) -> str | None:
    rows, columns = 2 * multiple, 3 * multiple
    with torch.device("meta"):
        try:
            found = encoder.forward_intermediates(
                torch.zeros(1, 3, rows, columns), output_fmt="NCHW", intermediates_only=True
            )
        except Exception as error:
            # A size that does not fit raises the error of the first operation that fails.
            return f"at {rows}x{columns}: {_first_line(error)}"
    for each, tensor in zip(maps, found, strict=False):
        if tensor.ndim != 4 or (tensor.shape[2] * each.stride, tensor.shape[3] * each.stride) != (
            rows,
            columns,
        ):
            return f"at {rows}x{columns} the map of stride {each.stride} is {tuple(tensor.shape)}"
    return None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
