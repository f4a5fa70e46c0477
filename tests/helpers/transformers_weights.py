"""Weights of transformers' Mask2Former and Swin under this project's names."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gbw_d2.modeling.mask2former.decoder import MaskedAttentionDecoder
from gbw_d2.modeling.mask2former.pixel_decoder import PixelDecoder

Module = TypeVar("Module", bound=nn.Module)

# transformers' names -> those of the official code, which timm converts.
_SWIN_NAMES = (
    (r"^swin\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^swin\.embeddings\.norm\.", "patch_embed.norm."),
    (r"^swin\.encoder\.", ""),
    (r"^hidden_states_norms\.stage(\d)\.", lambda found: f"norm{int(found[1]) - 1}."),
    (r"attention\.relative_position_bias\.", "attn."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)


def copied(ours: Module, theirs: dict[str, Tensor], names: dict[str, str]) -> Module:
    """Loads every parameter of ours from the one of theirs whose name the parts' names make."""
    state = {}
    for key in ours.state_dict():
        name = key
        for our_part, their_part in names.items():
            name = name.replace(our_part, their_part)
        state[key] = theirs[name]
    ours.load_state_dict(state)
    return ours.eval()


def copied_pixel_decoder(theirs: Any, ours: PixelDecoder) -> PixelDecoder:
    """Loads the weights of their pixel decoder."""
    names = {
        "feedforward_norm": "final_layer_norm",
        "attention_norm": "self_attn_layer_norm",
        "attention.offsets": "self_attn.sampling_offsets",
        "attention.weights": "self_attn.attention_weights",
        "attention.value": "self_attn.value_proj",
        "attention.output": "self_attn.output_proj",
        "expand": "fc1",
        "contract": "fc2",
        "projections": "input_projections",
        "level_codes": "level_embed",
        "layers": "encoder.layers",
        "lateral": "adapter_1",
        "smooth": "layer_1",
        "mask_features": "mask_projection",
    }
    return copied(ours, theirs.model.pixel_level_module.decoder.state_dict(), names)


def copied_decoder(theirs: Any, ours: MaskedAttentionDecoder) -> MaskedAttentionDecoder:
    """Loads the weights of their transformer decoder."""
    state = {f"class_predictor.{k}": v for k, v in theirs.class_predictor.state_dict().items()}
    for key, value in theirs.model.transformer_module.state_dict().items():
        if "cross_attn.in_proj" in key:
            # Query, key and value are one matrix there.
            ending = key.rpartition("_")[2]
            for name, part in zip("qkv", value.chunk(3), strict=True):
                state[key.replace(f"in_proj_{ending}", f"{name}_proj.{ending}")] = part
        else:
            state[key] = value
    names = {
        "feedforward_norm": "final_layer_norm",
        "cross_norm": "cross_attn_layer_norm",
        "among_norm": "self_attn_layer_norm",
        "cross.": "cross_attn.",
        "among.": "self_attn.",
        "query.": "q_proj.",
        "key.": "k_proj.",
        "value.": "v_proj.",
        "output.": "out_proj.",
        "expand": "fc1",
        "contract": "fc2",
        "query_content": "queries_features",
        "query_codes": "queries_embedder",
        "level_codes": "level_embed",
        "layers": "decoder.layers",
        "classifier": "class_predictor",
        "mask_embedder.0": "decoder.mask_predictor.mask_embedder.0.0",
        "mask_embedder.2": "decoder.mask_predictor.mask_embedder.1.0",
        "mask_embedder.4": "decoder.mask_predictor.mask_embedder.2.0",
    }
    state["norm.weight"] = state["decoder.layernorm.weight"]
    state["norm.bias"] = state["decoder.layernorm.bias"]
    return copied(ours, state, names)


def official_swin_names(network: nn.Module) -> dict[str, Tensor]:
    """Returns the weights of their Swin under the names of the official code."""
    state = {}
    for name, value in network.state_dict().items():
        for pattern, replacement in _SWIN_NAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = value
    for query in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(query.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        state[query.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    return state
