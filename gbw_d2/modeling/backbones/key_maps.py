"""Maps the names of an encoder's weights in other projects' files to timm's names.

The lists of names come from running the official code (tests/modeling/backbones/official_names):
NVlabs/SegFormer 65fa8cfa, facebookresearch/dinov2 b8931f7b, facebookresearch/dinov3 6876159a, and
transformers 5.22.1 for its own.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gbw_d2.errors import UserError

State = dict[str, Tensor]


@dataclass(frozen=True)
class KeyMap:
    """A naming scheme: its name, and a function that renames a state to the encoder's names."""

    name: str
    rename: Callable[[State, nn.Module], State]


def _by_timm(state: State, encoder: nn.Module) -> State:
    """Renames as timm does for this encoder: official Swin, PVT and MiT, DINOv2, DINOv3 and others.

    It also resamples patch and position embeddings to the encoder's sizes.
    """
    _check_biases(state, encoder)
    convert = getattr(sys.modules[type(encoder).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    # timm prints missing names.
    with contextlib.redirect_stdout(io.StringIO()):
        return convert(state, encoder)


def _check_biases(state: State, encoder: nn.Module) -> None:
    """Raises UserError where a transformer's query and value biases would be dropped.

    timm has DINOv3 with and without these biases, and silently drops them when loading into the
    latter.
    """
    own = dict(encoder.named_parameters())
    for name, bias in state.items():
        layer = name.removesuffix("qkv.bias")
        if name == layer or f"{layer}qkv.weight" not in own:
            continue
        query, _, value = bias.chunk(3)
        if not {f"{layer}q_bias", name} & set(own) and bool(
            (query != 0).any() | (value != 0).any()
        ):
            raise UserError(
                f"the file has biases of queries and values ({name}), this encoder has none; set "
                "MODEL.TIMM.NAME to the one whose name ends in _qkvb"
            )


# transformers' Segformer: (pattern, replacement) in turn. Until 5.x the names in memory were those
# of its files; now they are the second half of the list.
_SEGFORMER = (
    (r"^segformer\.", ""),
    (r"^encoder\.", ""),
    (r"^patch_embeddings\.(\d+)\.", r"stages.\1.patch."),
    (r"^block\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^layer_norm\.(\d+)\.", r"stages.\1.norm."),
    (r"\.attention\.self\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.self\.sr\.", ".attn.sr."),
    (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
    (r"\.patch_embeddings\.", ".patch."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.sequence_reduction\.sequence_reduction\.", ".attn.sr."),
    (r"\.attention\.sequence_reduction\.layer_norm\.", ".attn.norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^(stages\.\d+)\.layer_norm\.", r"\1.norm."),
    (r"\.dwconv\.dwconv\.", ".dwconv."),
    (r"^stages\.0\.patch\.", "patch_embed."),
    (r"^(stages\.\d+)\.patch\.", r"\1.downsample."),
    (r"^(patch_embed|stages\.\d+\.downsample)\.layer_norm\.", r"\1.norm."),
    (r"\.attn\.query\.", ".attn.q."),
)


def _segformer_of_transformers(state: State, encoder: nn.Module) -> State:
    renamed: State = {}
    for name, value in state.items():
        for pattern, replacement in _SEGFORMER:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    for name in [n for n in renamed if ".attn.key." in n]:
        value = name.replace(".key.", ".value.")
        both = torch.cat([renamed.pop(name), renamed.pop(value)])
        renamed[name.replace(".key.", ".kv.")] = both
    return renamed


def _efficientnet_pytorch(state: State, encoder: nn.Module) -> State:
    """Pairs weights by order: efficientnet_pytorch's files list layers in the same order."""
    if next(iter(state)) != "_conv_stem.weight":
        return state
    own = encoder.state_dict()
    pairs = list(zip(state.values(), own.items(), strict=False))
    if any(value.shape != expected.shape for value, (_, expected) in pairs):
        return state
    return {name: value for value, (name, _) in pairs}


# The first map that covers an encoder is used; the last one renames nothing.
KEY_MAPS = (
    KeyMap("timm's names, or official ones that timm converts", _by_timm),
    KeyMap("transformers' Segformer", _segformer_of_transformers),
    KeyMap("efficientnet_pytorch", _efficientnet_pytorch),
    KeyMap("the encoder's own names", lambda state, encoder: state),
)
