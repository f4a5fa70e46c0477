"""Official checkpoints load whole: every name of the heads has its place here, by shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gbw_d2.config import load_config
from gbw_d2.engine.build import build_model
from gbw_d2.engine.initial_weights import fit_names
from gbw_d2.engine.setup import resolve
from gbw_d2.modeling.mask2former.decoder import Attention
from gbw_d2.modeling.mask2former.official_names import renamed_weights

ROOT = Path(__file__).parents[3]
NAMES = Path(__file__).parent / "official_names.txt"
SWIN_NAMES = Path(__file__).parent / "official_names_swin_t.txt"


def official(names: Path) -> dict[str, Tensor]:
    rows = [line.split() for line in names.read_text().splitlines() if not line.startswith("#")]
    return {
        name: torch.empty([int(side) for side in shape.split("x")], device="meta")
        for name, shape in rows
    }


def build(encoder: str = "encoders/resnet50_stride32", *keys: str) -> Any:
    words = [encoder, "DATASETS.LABEL_SPACE", "cityscapes_19"]
    words += ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "meta", *keys]
    cfg = load_config(str(ROOT / "configs/synthia_panoptic_mask2former_gbw.yaml"), words)
    resolve(cfg)
    with torch.device("meta"):
        return build_model(cfg)


def test_every_name_of_the_heads_has_its_place() -> None:
    model = build()
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    heads = {name for name in own if name.startswith("sem_seg_head.")}
    found = renamed_weights(official(NAMES))
    assert found.keys() == heads and len(heads) > 300
    assert all(tuple(value.shape) == own[name] for name, value in found.items())


def test_a_whole_file_is_taken_with_its_encoder() -> None:
    model = build()
    # Detectron2's ResNet has one naming; statistics that are only there are no part of ours.
    encoder = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    checkpoint = {"model": {**encoder, **official(NAMES), "pixel_mean": torch.zeros(3, 1, 1)}}
    fit_names(model, checkpoint)
    assert checkpoint["model"].keys() == model.state_dict().keys()


@pytest.mark.slow
def test_a_whole_file_with_swin_is_taken_with_the_norms_of_its_maps() -> None:
    keys = ["MODEL.TIMM.NAME", "swin_tiny_patch4_window7_224", "MODEL.TIMM.PRETRAINED", "False"]
    model = build("encoders/swin_b", *keys)
    encoder_file = {k: torch.zeros(v.shape) for k, v in official(SWIN_NAMES).items()}
    checkpoint = {"model": {**encoder_file, **official(NAMES)}}
    fit_names(model, checkpoint)
    found, own = checkpoint["model"], model.state_dict()
    assert found.keys() == own.keys() and "backbone.output_norms.res5.weight" in own
    encoder = [name for name in own if name.startswith("backbone.")]
    assert len(encoder) > 170 and all(found[name].shape == own[name].shape for name in encoder)


def test_attention_of_three_inputs_is_pytorchs() -> None:
    torch.manual_seed(0)
    theirs, ours = nn.MultiheadAttention(32, 4, batch_first=True), Attention(32, 4, 0.0)
    nn.init.normal_(theirs.in_proj_bias)
    layer = "sem_seg_head.predictor.transformer_cross_attention_layers.2.multihead_attn."
    state = {f"{layer}{name}": value for name, value in theirs.state_dict().items()}
    marker = {"sem_seg_head.predictor.query_embed.weight": torch.zeros(1, 32)}
    place = "sem_seg_head.decoder.layers.2.cross."
    found = renamed_weights({**state, **marker})
    ours.load_state_dict(
        {k.removeprefix(place): v for k, v in found.items() if k.startswith(place)}
    )
    query, key, value = (torch.randn(2, count, 32) for count in (5, 7, 7))
    torch.testing.assert_close(ours(query, key, value, None), theirs(query, key, value)[0])


def test_other_files_stay_as_they_are() -> None:
    state = {"sem_seg_head.pixel_decoder.adapter_1.weight": torch.zeros(1), "norm1": torch.ones(1)}
    assert renamed_weights(state) == state
