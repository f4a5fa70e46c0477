"""Swin on maps that no whole number of windows covers: pad, then shift, as the official code."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from transformers import SwinBackbone, SwinConfig
from transformers_weights import official_swin_names

from gbw_d2.modeling.backbones.pretrained import load_encoder
from gbw_d2.modeling.backbones.timm_encoder import create_encoder

SMALL = {"embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 3, 4)}


def with_random_norms(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.5)
    return network.double().eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (96, 224)])
def test_every_map_is_that_of_transformers(build: Any, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    config = SwinConfig(**SMALL, window_size=7, out_features=[f"stage{n}" for n in range(1, 5)])
    theirs = with_random_norms(SwinBackbone(config))
    ours = build(NAME="swin_tiny_patch4_window7_224", ARGS=SMALL, OUTPUT_NORM="LN").double().eval()
    state = official_swin_names(theirs)
    norms = {k: state.pop(k) for k in list(state) if re.match(r"norm\d", k)}
    assert "100.0% of its parameters" in load_encoder(ours.encoder, state, "transformers")
    ours.output_norms.load_state_dict({f"res{int(k[4]) + 2}{k[5:]}": v for k, v in norms.items()})
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = theirs(images).feature_maps
    for found, wanted in zip(ours(images).values(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_224"]
)
def test_the_last_rows_see_nothing_of_the_first(name: str) -> None:
    torch.manual_seed(0)
    encoder = with_random_norms(create_encoder(name, SMALL).module)
    # 26 x 18 patches, windows of 7 or 8: two blocks reach less than 16 patches far.
    images = torch.randn(1, 3, 104, 72, dtype=torch.float64)
    other = images.clone()
    other[..., :4, :] += 1
    first, second = (
        encoder.forward_intermediates(each, indices=[0], intermediates_only=True)[0]
        for each in (images, other)
    )
    differs = (first != second).any(1).any(0).any(1)
    assert differs[:7].all() and not differs[16:].any()
