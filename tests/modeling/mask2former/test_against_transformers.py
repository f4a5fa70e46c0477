"""Mask2Former equals that of transformers with copied weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from query_cases import masks_of, random_segments
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from gbw_d2.losses import ClassWeightedQueryClassification, ClassWeightedQueryMask
from gbw_d2.modeling.mask2former.criterion import PointSettings, query_targets
from gbw_d2.modeling.mask2former.decoder import DecoderSettings, MaskedAttentionDecoder
from gbw_d2.modeling.mask2former.matching import LossFactors, match
from gbw_d2.modeling.mask2former.pixel_decoder import PixelDecoder, PixelDecoderSettings
from gbw_d2.weighting import build_scheme

CLASSES, QUERIES, POINTS = 5, 12, 64


@pytest.fixture(scope="module")
def theirs() -> Any:
    """Their network with weights that make every part count."""
    torch.manual_seed(0)
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 4, 8],
            window_size=4,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=48,
        dim_feedforward=40,
        encoder_layers=2,
        decoder_layers=5,
        num_attention_heads=4,
        num_queries=QUERIES,
        num_labels=CLASSES,
        train_num_points=POINTS,
    )
    network = Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def copied(ours: nn.Module, theirs: dict[str, Tensor], names: dict[str, str]) -> nn.Module:
    """Loads every parameter of ours from the one of theirs whose name the parts' names make."""
    state = {}
    for key in ours.state_dict():
        name = key
        for our_part, their_part in names.items():
            name = name.replace(our_part, their_part)
        state[key] = theirs[name]
    ours.load_state_dict(state)
    return ours.eval()


def pixel_decoder(theirs: Any) -> PixelDecoder:
    ours = PixelDecoder([16, 32, 64, 128], PixelDecoderSettings(32, 2, 4, 4, 48))
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


def decoder(theirs: Any) -> MaskedAttentionDecoder:
    ours = MaskedAttentionDecoder(CLASSES, 3, DecoderSettings(QUERIES, 32, 4, 4, 40))
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


@pytest.fixture(scope="module")
def predicted(theirs: Any) -> tuple[Any, Any]:
    """Their outputs of two images, with those of every layer, and ours of the same features."""
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = theirs(images, output_hidden_states=True, output_auxiliary_logits=True)
        features = output.encoder_hidden_states
        mask_features, levels = pixel_decoder(theirs)(features)
        ours = decoder(theirs)(mask_features, levels)
    mask_features_there = output.pixel_decoder_last_hidden_state
    torch.testing.assert_close(mask_features, mask_features_there, atol=1e-4, rtol=1e-4)
    for mine, other in zip(levels, output.pixel_decoder_hidden_states, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    return output, ours


def test_every_prediction_is_theirs(predicted: tuple[Any, Any]) -> None:
    output, ours = predicted
    last = {
        "class_queries_logits": output.class_queries_logits,
        "masks_queries_logits": output.masks_queries_logits,
    }
    every = [*output.auxiliary_logits, last]
    assert len(every) == len(ours.masks) == 5
    for layer, expected in enumerate(every):
        for mine, key in (
            (ours.classes[layer], "class_queries_logits"),
            (ours.masks[layer], "masks_queries_logits"),
        ):
            assert expected[key].std() > 0.1
            torch.testing.assert_close(mine, expected[key], atol=1e-4, rtol=1e-4)
    # Masks differ from layer to layer, so that attention within them was at work.
    assert (ours.masks[0] - ours.masks[-1]).abs().max() > 0.1


@pytest.mark.parametrize("things", [6, 20])
def test_assignment_and_losses_are_theirs(
    theirs: Any, predicted: tuple[Any, Any], same_points: None, things: int
) -> None:
    output, ours = predicted
    torch.manual_seed(2)
    targets = random_segments(2, (64, 96), things, CLASSES)
    masks, classes = masks_of(targets)
    # Of 20 things and some stuff, 12 queries can learn 12.
    assert (len(classes[0]) > QUERIES) == (things == 20)
    matches = match(ours, targets, targets.present(), LossFactors(), POINTS)
    indices = theirs.criterion.matcher(
        output.masks_queries_logits, output.class_queries_logits, masks, classes
    )
    for image, (queries, segments) in enumerate(indices):
        mine = matches.images == image
        assert matches.queries[-1, mine].tolist() == queries.tolist()
        numbers = targets.present()[image].nonzero()[:, 0]
        assert matches.slots[-1, mine].tolist() == numbers[segments].tolist()

    losses = theirs.get_loss_dict(
        output.masks_queries_logits,
        output.class_queries_logits,
        masks,
        classes,
        output.auxiliary_logits,
    )
    learned = query_targets(ours, targets, None, LossFactors(), PointSettings(POINTS))
    of_classes = ClassWeightedQueryClassification(build_scheme("none", CLASSES))(
        ours.classes.flatten(0, 2), learned.labels.flatten(), predictions=len(ours.masks)
    )
    of_masks = ClassWeightedQueryMask(build_scheme("none", CLASSES))(
        learned.mask_logits.flatten(0, 1),
        learned.mask_truth.flatten(0, 1),
        learned.mask_labels.flatten(),
        learned.importance.flatten(),
        learned.mass,
    )
    theirs_of_classes = sum(v for k, v in losses.items() if "cross_entropy" in k)
    theirs_of_masks = sum(v for k, v in losses.items() if "cross_entropy" not in k)
    torch.testing.assert_close(2 * of_classes, theirs_of_classes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(of_masks, theirs_of_masks, atol=1e-4, rtol=1e-4)
