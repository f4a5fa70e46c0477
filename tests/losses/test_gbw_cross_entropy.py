from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gbw_d2.losses import GBWCrossEntropyLoss
from gbw_d2.weighting import class_hindrance, gbw_weights, logit_gradient_norms


def make_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (2, 8, 8), generator=generator)
    labels[0, :2] = 255
    return logits, labels


def test_default_is_norm_relative_power_one_lambda_one_present():
    logits, labels = make_batch()
    criterion = GBWCrossEntropyLoss(4)
    assert criterion.weights is None
    assert criterion.norms is None
    loss = criterion(logits, labels)
    norms = logit_gradient_norms(logits, labels)
    present = torch.tensor([True, True, True, False])
    weights = gbw_weights(norms, present, lam=1.0, power=1.0)
    torch.testing.assert_close(criterion.norms.float(), norms)
    torch.testing.assert_close(criterion.weights, weights)
    assert (weights - 1).abs().max() > 1e-3
    expected = F.cross_entropy(logits, labels, weights, ignore_index=255, reduction="none").mean()
    torch.testing.assert_close(loss, expected)


def test_hindrance_at_the_classifiers_resolution():
    logits, labels = make_batch()
    features, low = torch.randn(2, 5, 4, 4), 0.1 * torch.randn(2, 4, 4, 4)
    criterion = GBWCrossEntropyLoss(4, measure="hindrance", power=0.5)
    criterion(logits, labels, classifier=(features, low))
    ratio, present = class_hindrance(features, low, labels[:, 1::2, 1::2])
    torch.testing.assert_close(criterion.classifier_measure, ratio)
    assert criterion.norms is None
    torch.testing.assert_close(criterion.weights, gbw_weights(ratio, present, lam=1.0, power=0.5))
    with pytest.raises(ValueError, match="classifier"):
        criterion(logits, labels)


def test_released_setting_is_nearly_plain_cross_entropy():
    logits, labels = make_batch()
    criterion = GBWCrossEntropyLoss(4, scale="released", power=2.0, budget="all")
    criterion(logits, labels)
    assert 0 < (criterion.weights - 1).abs().max() < 0.02


def test_checkpoint_continues_exactly(tmp_path):
    first = GBWCrossEntropyLoss(4, momentum=0.9)
    first(*make_batch(0))
    torch.save(first.state_dict(), tmp_path / "loss.pth")
    second = GBWCrossEntropyLoss(4, momentum=0.9)
    second.load_state_dict(torch.load(tmp_path / "loss.pth", weights_only=True))
    assert second(*make_batch(1)) == first(*make_batch(1))
    assert torch.equal(second.weights, first.weights)
    assert not torch.equal(first.weights, _fresh_weights())


def _fresh_weights():
    fresh = GBWCrossEntropyLoss(4, momentum=0.9)
    fresh(*make_batch(1))
    return fresh.weights


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="released, relative"):
        GBWCrossEntropyLoss(4, scale="absolute")
