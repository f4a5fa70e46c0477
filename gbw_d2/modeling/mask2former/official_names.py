"""Maps the names of official Mask2Former checkpoints to those of this project.

The list of names comes from running the constructor of facebookresearch/Mask2Former 9b0651c
(tests/modeling/mask2former/official_names.txt).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

_HEAD = "sem_seg_head."
_PIXELS = f"{_HEAD}pixel_decoder."
_QUERIES = f"{_HEAD}predictor."

# (pattern, replacement), in turn; names that none of them meets stay.
_RENAMED = (
    (rf"^{_PIXELS}input_proj\.", f"{_PIXELS}projections."),
    (rf"^{_PIXELS}transformer\.level_embed$", f"{_PIXELS}level_codes"),
    (rf"^{_PIXELS}transformer\.encoder\.layers\.", f"{_PIXELS}layers."),
    (rf"^{_PIXELS}adapter_1\.(weight)$", rf"{_PIXELS}lateral.0.\1"),
    (rf"^{_PIXELS}adapter_1\.norm\.", f"{_PIXELS}lateral.1."),
    (rf"^{_PIXELS}layer_1\.(weight)$", rf"{_PIXELS}smooth.0.\1"),
    (rf"^{_PIXELS}layer_1\.norm\.", f"{_PIXELS}smooth.1."),
    (r"\.self_attn\.sampling_offsets\.", ".attention.offsets."),
    (r"\.self_attn\.attention_weights\.", ".attention.weights."),
    (r"\.self_attn\.value_proj\.", ".attention.value."),
    (r"\.self_attn\.output_proj\.", ".attention.output."),
    (rf"^({_PIXELS}layers\.\d+)\.norm1\.", r"\1.attention_norm."),
    (rf"^({_PIXELS}layers\.\d+)\.norm2\.", r"\1.feedforward_norm."),
    (rf"^{_QUERIES}(?:query_feat|static_query)\.", f"{_HEAD}decoder.query_content."),
    (rf"^{_QUERIES}query_embed\.", f"{_HEAD}decoder.query_codes."),
    (rf"^{_QUERIES}level_embed\.", f"{_HEAD}decoder.level_codes."),
    (rf"^{_QUERIES}decoder_norm\.", f"{_HEAD}decoder.norm."),
    (rf"^{_QUERIES}class_embed\.", f"{_HEAD}decoder.classifier."),
    # A list of layers there, here with activations between them.
    *(
        (rf"^{_QUERIES}mask_embed\.layers\.{n}\.", f"{_HEAD}decoder.mask_embedder.{2 * n}.")
        for n in range(3)
    ),
    (rf"^{_QUERIES}transformer_cross_attention_layers\.", f"{_HEAD}decoder.layers.cross "),
    (rf"^{_QUERIES}transformer_self_attention_layers\.", f"{_HEAD}decoder.layers.among "),
    (rf"^{_QUERIES}transformer_ffn_layers\.", f"{_HEAD}decoder.layers.feedforward "),
    (r"layers\.(cross|among|feedforward) (\d+)\.norm\.", r"layers.\2.\1_norm."),
    (r"layers\.(cross|among) (\d+)\.(?:multihead|self)_attn\.", r"layers.\2.\1."),
    (r"layers\.feedforward (\d+)\.", r"layers.\1."),
    (r"(\.layers\.\d+)\.linear1\.", r"\1.expand."),
    (r"(\.layers\.\d+)\.linear2\.", r"\1.contract."),
    (r"\.out_proj\.", ".output."),
    # Norms on the maps of Swin; its other names timm knows.
    *((rf"^backbone\.norm{n}\.", f"backbone.output_norms.res{n + 2}.") for n in range(4)),
)
_JOINED = re.compile(r"(.*)\.in_proj_(weight|bias)")
# What is computed from the config here.
_DROPPED = ("criterion.", "pixel_mean", "pixel_std")


def renamed_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the weights of an official checkpoint; other checkpoints are unchanged."""
    if f"{_QUERIES}query_embed.weight" not in state:
        return dict(state)
    return {
        name: value
        for key, tensor in state.items()
        if not key.startswith(_DROPPED)
        for name, value in _split(key, tensor)
    }


def _split(key: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if key.startswith((_HEAD, "backbone.norm")):
        for pattern, replacement in _RENAMED:
            key = re.sub(pattern, replacement, key)
    found = _JOINED.fullmatch(key)
    if found is None or not key.startswith(_HEAD):
        yield key, tensor
        return
    for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
        yield f"{found[1]}.{part}.{found[2]}", rows
