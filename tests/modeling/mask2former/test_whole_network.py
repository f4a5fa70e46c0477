"""A whole Mask2Former on Swin-T equals that of transformers, except where attention is a tie."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig
from transformers_weights import copied_decoder, copied_pixel_decoder, official_swin_names

from gbw_d2.config import add_gbw_config
from gbw_d2.modeling.backbones import build_timm_backbone
from gbw_d2.modeling.backbones.pretrained import load_encoder
from gbw_d2.modeling.mask2former import decoder as decoder_file
from gbw_d2.modeling.mask2former.decoder import DecoderSettings, MaskedAttentionDecoder
from gbw_d2.modeling.mask2former.head import MaskHead
from gbw_d2.modeling.mask2former.pixel_decoder import PixelDecoder, PixelDecoderSettings

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec

CLASSES = 19
MAPS = ("res2", "res3", "res4", "res5")


def swin_mask2former() -> Any:
    torch.manual_seed(0)
    stages = [f"stage{number}" for number in range(1, 5)]
    swin = SwinConfig(depths=[2, 2, 6, 2], window_size=7, out_features=stages)
    config = Mask2FormerConfig(backbone_config=swin, num_labels=CLASSES)
    return Mask2FormerForUniversalSegmentation(config).eval()


def copied_encoder(theirs: Any) -> Any:
    cfg = get_cfg()
    add_gbw_config(cfg)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUTPUT_NORM = "swin_tiny_patch4_window7_224", "LN"
    ours = build_timm_backbone(cfg, ShapeSpec(channels=3)).eval()
    state = official_swin_names(theirs.model.pixel_level_module.encoder)
    norms = {name: state.pop(name) for name in list(state) if re.match(r"norm\d", name)}
    assert "100.0% of its parameters" in load_encoder(ours.encoder, state, "transformers")
    ours.output_norms.load_state_dict({f"res{int(k[4]) + 2}{k[5:]}": v for k, v in norms.items()})
    return ours


def attention_of(theirs: Any, images: Tensor) -> tuple[Any, list[Tensor], list[Tensor]]:
    """Returns their output, and of each layer the resized mask logits and where it may attend."""
    logits, allowed = [], []

    def record(predictor: Any, inputs: Any, outputs: Any) -> None:
        masks, blocked = outputs
        logits.append(F.interpolate(masks, inputs[2], mode="bilinear").flatten(2))
        blocked = blocked.unflatten(0, (len(masks), -1))[:, 0]
        allowed.append(~blocked | blocked.all(2, keepdim=True))

    predictor = theirs.model.transformer_module.decoder.mask_predictor
    with predictor.register_forward_hook(record):
        output = theirs(images, output_auxiliary_logits=True)
    return output, logits, allowed


@torch.no_grad()
@pytest.mark.slow
def test_every_prediction_is_theirs_with_their_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = swin_mask2former()
    encoder = copied_encoder(theirs)
    pixel_decoder = PixelDecoder([96, 192, 384, 768], PixelDecoderSettings())
    decoder = MaskedAttentionDecoder(CLASSES, 3, DecoderSettings())
    head = MaskHead(
        MAPS, copied_pixel_decoder(theirs, pixel_decoder), copied_decoder(theirs, decoder)
    )
    inside = decoder_file._inside
    # Both have a mask logit so near the threshold that the order of additions decided (6e-9 there
    # and -2e-8 here, in the first).
    for seed in (3, 13):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(1, 3, 224, 224, generator=generator)
        output, logits, allowed = attention_of(theirs, images)
        layers = iter(zip(logits, allowed, strict=True))

        def theirs_inside(masks: Tensor, size: tuple[int, int], layers: Any = layers) -> Tensor:
            values, places = next(layers)
            differ = values[inside(masks, size) != places]
            assert differ.numel() < 5 and (differ.abs() < 1e-6).all()
            return places

        monkeypatch.setattr(decoder_file, "_inside", theirs_inside)
        ours = head(encoder(images))
        last = {
            "class_queries_logits": output.class_queries_logits,
            "masks_queries_logits": output.masks_queries_logits,
        }
        every = [*output.auxiliary_logits, last]
        assert len(every) == len(ours.masks) == 10
        for classes, masks, expected in zip(ours.classes, ours.masks, every, strict=True):
            for mine, key in ((classes, "class_queries_logits"), (masks, "masks_queries_logits")):
                torch.testing.assert_close(mine, expected[key], atol=1e-5, rtol=0)
