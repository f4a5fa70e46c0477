"""Mask2Former equals that of transformers with copied weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from query_cases import masks_of, random_segments
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig
from transformers_weights import copied_decoder, copied_pixel_decoder

from gbw_d2.losses import ClassWeightedQueryClassification, ClassWeightedQueryMask
from gbw_d2.modeling.mask2former.criterion import PointSettings, query_targets
from gbw_d2.modeling.mask2former.decoder import (
    DecoderSettings,
    MaskedAttentionDecoder,
    _inside,
)
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


@pytest.fixture(scope="module")
def predicted(theirs: Any) -> tuple[Any, Any]:
    """Their outputs of two images, with those of every layer, and ours of the same features."""
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = theirs(images, output_hidden_states=True, output_auxiliary_logits=True)
        features = output.encoder_hidden_states
        pixel_decoder = PixelDecoder([16, 32, 64, 128], PixelDecoderSettings(32, 2, 4, 4, 48))
        mask_features, levels = copied_pixel_decoder(theirs, pixel_decoder)(features)
        decoder = MaskedAttentionDecoder(CLASSES, 3, DecoderSettings(QUERIES, 32, 4, 4, 40))
        ours = copied_decoder(theirs, decoder)(mask_features, levels)
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


@torch.no_grad()
def test_attention_is_theirs_for_logits_within_rounding_of_the_threshold(theirs: Any) -> None:
    torch.manual_seed(4)
    predictor = theirs.model.transformer_module.decoder.mask_predictor
    queries, features = torch.randn(QUERIES, 2, 32), torch.randn(2, 32, 16, 24)
    queries[0] = 0  # The logits of this query follow from biases alone: its mask may be empty.
    logits = predictor(queries, features, (8, 12))[0]
    masks, blocked = predictor(queries, features * 4e-7 / logits.std(), (8, 12))
    blocked = blocked.unflatten(0, (2, -1))[:, 0]
    found = _inside(masks, (8, 12))
    assert torch.equal(found, ~blocked | blocked.all(2, keepdim=True))
    resized = F.interpolate(masks, (8, 12), mode="bilinear").flatten(2)
    some = (~blocked).any(2, keepdim=True)
    assert (found & some & (resized < 0)).any() and not found.all()


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
