"""The loss to be used by itself: the recommended scheme with a classifier, norms without."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gbw_d2.losses import ClassWeightedCrossEntropy, GBWCrossEntropyLoss
from gbw_d2.weighting import (
    WeightLog,
    build_scheme,
    class_hindrance,
    gbw_weights,
    logit_gradient_norms,
)

CLASSES = 4


def make_batch(seed=0):
    """Features at the classifier's resolution, and labels (class 3 absent) at twice that."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 5, 4, 4, generator=generator)
    labels = torch.randint(0, 3, (2, 8, 8), generator=generator)
    labels[0, :2] = 255
    return features, labels


def make_layer():
    torch.manual_seed(0)
    return nn.Conv2d(5, CLASSES, 1)


def run(layer, features):
    """Returns the classifier's output and the logits at the labels' resolution."""
    low = layer(features)
    return low, F.interpolate(low, scale_factor=2)


def train(step, steps=3):
    """Trains a classifier with ``step(layer, features, labels)``; returns all that it was."""
    layer = make_layer()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    seen = []
    for seed in range(steps):
        loss = step(layer, *make_batch(seed))
        optimizer.zero_grad()
        loss.backward()
        seen += [loss.detach(), layer.weight.grad.clone()]
        optimizer.step()
    return torch.cat([each.flatten() for each in (*seen, layer.weight.detach())])


def test_with_the_classifier_it_is_the_scheme_gbw():
    criterion = GBWCrossEntropyLoss(CLASSES)
    scheme = build_scheme("gbw", CLASSES)
    expected = ClassWeightedCrossEntropy(scheme)

    def ours(layer, features, labels):
        low, logits = run(layer, features)
        return criterion(logits, labels, classifier=(features, low))

    def theirs(layer, features, labels):
        low, logits = run(layer, features)
        log = WeightLog()
        loss = expected(logits, labels, None, (features, low), log=log)
        weights.append(log.get("loss", "source").weights)
        return loss

    weights = []
    assert criterion.weights is None and criterion.measure is None
    assert torch.equal(train(ours), train(theirs))
    assert torch.equal(criterion.weights, weights[-1])
    assert (criterion.weights - 1).abs().max() > 1e-2
    assert criterion.norms is None and criterion.measure is not None
    # Half of the prior shift is left in the logits, and goes out of pseudo-labels.
    shift = criterion.pseudo_label_shift()
    assert torch.equal(shift, scheme.pseudo_label_shift())
    torch.testing.assert_close(shift, -scheme.logit_shift("source"))
    assert shift.abs().max() > 1e-2


@pytest.mark.parametrize("scheme", ["gbw", "gbw_hindrance", "gbw_norm"])
def test_the_layer_is_the_pair_bit_for_bit(scheme):
    pair = GBWCrossEntropyLoss(CLASSES, scheme=scheme)
    made = {}

    def by_pair(layer, features, labels):
        low, logits = run(layer, features)
        return pair(logits, labels, classifier=(features, low))

    def by_layer(layer, features, labels):
        if not made:
            made["loss"] = GBWCrossEntropyLoss(CLASSES, classifier=layer, scheme=scheme)
        _, logits = run(layer, features)
        return made["loss"](logits, labels)

    assert torch.equal(train(by_layer), train(by_pair))
    state = made["loss"].state_dict()
    assert state.keys() == pair.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in pair.state_dict().items())
    # The layer is not a part of the loss.
    assert not list(made["loss"].parameters())


def test_without_a_classifier_it_is_the_norm_and_says_so_once(caplog):
    features, labels = make_batch()
    logits = run(make_layer(), features)[1].detach()
    criterion = GBWCrossEntropyLoss(CLASSES)
    with caplog.at_level(logging.WARNING):
        loss = criterion(logits, labels)
        first = criterion.weights, criterion.norms
        criterion(logits, labels)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "has no classifier" in caplog.text and "'gbw_norm'" in caplog.text
    # By hand: norm, relative scale, power 1, lambda 1, over the classes that are present.
    norms = logit_gradient_norms(logits, labels)
    present = torch.tensor([True, True, True, False])
    weights = gbw_weights(norms, present, lam=1.0, power=1.0)
    torch.testing.assert_close(first[1].float(), norms)
    torch.testing.assert_close(first[0], weights)
    assert torch.equal(criterion.measure, criterion.norms)
    # What all schemes have is the named scheme's: half of the prior shift leaves the logits.
    shift = criterion.pseudo_label_shift()
    assert shift is not None and shift.abs().max() > 1e-4
    assert (weights - 1).abs().max() > 1e-3
    expected = F.cross_entropy(logits, labels, weights, ignore_index=255, reduction="none").mean()
    torch.testing.assert_close(loss, expected)
    # Whoever asks for norms is not told.
    caplog.clear()
    asked = GBWCrossEntropyLoss(CLASSES, scheme="gbw_norm")
    assert torch.equal(asked(logits, labels), loss)
    assert not caplog.records


def test_hindrance_at_the_classifiers_resolution():
    features, labels = make_batch()
    low, logits = run(make_layer(), features)
    criterion = GBWCrossEntropyLoss(CLASSES, scheme="gbw_hindrance", power=0.7, min_weight=0.0)
    criterion(logits, labels, classifier=(features, low))
    ratio, present = class_hindrance(features, low, labels[:, 1::2, 1::2])
    torch.testing.assert_close(criterion.measure, ratio)
    torch.testing.assert_close(criterion.weights, gbw_weights(ratio, present, lam=1.0, power=0.7))


def test_released_setting_is_nearly_plain_cross_entropy():
    features, labels = make_batch()
    criterion = GBWCrossEntropyLoss(CLASSES, scheme="gbw_released")
    criterion(run(make_layer(), features)[1], labels)
    assert 0 < (criterion.weights - 1).abs().max() < 0.02


def test_a_loss_belongs_to_one_pass_of_the_layer():
    layer, (features, labels) = make_layer(), make_batch()
    criterion = GBWCrossEntropyLoss(CLASSES, classifier=layer)
    _, logits = run(layer, features)
    run(layer, 2 * features)
    with pytest.raises(ValueError, match="the classifier ran 2 times since the last loss"):
        criterion(logits, labels)
    with pytest.raises(ValueError, match="the classifier ran 0 times since the last loss"):
        criterion(logits, labels)
    # After an error, and after a loss that was given the pair, a pass and its loss go on.
    low, logits = run(layer, features)
    by_layer = criterion(logits, labels)
    fresh = GBWCrossEntropyLoss(CLASSES, classifier=make_layer())
    assert torch.equal(fresh(logits, labels, classifier=(features, low)), by_layer)
    low, logits = run(layer, features)
    criterion(logits, labels, classifier=(features, low))
    _, logits = run(layer, features)
    criterion(logits, labels)


def test_passes_that_are_not_learned_from_are_not_recorded():
    (features, labels), (other, _) = make_batch(), make_batch(1)
    expected = GBWCrossEntropyLoss(CLASSES)
    layer = make_layer()
    low, logits = run(layer, features)
    wanted = expected(logits, labels, classifier=(features, low))
    # A teacher's pass with the student's layer, in training mode.
    criterion = GBWCrossEntropyLoss(CLASSES, classifier=layer)
    _, logits = run(layer, features)
    with torch.no_grad():
        run(layer, other)
    assert torch.equal(criterion(logits, labels), wanted)
    assert torch.equal(criterion.weights, expected.weights)


def test_evaluation_between_steps_does_not_disturb():
    (features, labels), (other, _) = make_batch(), make_batch(1)
    layer = make_layer()
    criterion = GBWCrossEntropyLoss(CLASSES, classifier=layer)
    layer.eval()
    with torch.no_grad():
        for _ in range(2):
            run(layer, other)
    # Predictions have no loss: training goes on with the first pass after them.
    layer.train()
    low, logits = run(layer, features)
    wanted = GBWCrossEntropyLoss(CLASSES)(logits, labels, classifier=(features, low))
    assert torch.equal(criterion(logits, labels), wanted)
    # A prediction between a pass and its loss makes it unclear what the loss is of.
    _, logits = run(layer, features)
    layer.eval()
    with torch.no_grad():
        run(layer, other)
    with pytest.raises(ValueError, match="ran 2 times since the last loss"):
        criterion(logits, labels)


def test_eval_leaves_the_state_alone():
    layer = make_layer()
    criterion = GBWCrossEntropyLoss(CLASSES, classifier=layer)
    for seed in (0, 1):
        features, labels = make_batch(seed)
        criterion(run(layer, features)[1], labels)
    state = copy.deepcopy(criterion.state_dict())
    features, labels = make_batch(2)
    layer.eval()
    criterion.eval()
    with torch.no_grad():
        looked_at = [criterion(run(layer, features)[1], labels) for _ in range(2)]
    assert torch.equal(*looked_at)
    assert all(torch.equal(value, state[key]) for key, value in criterion.state_dict().items())
    layer.train()
    criterion.train()
    assert torch.equal(criterion(run(layer, features)[1], labels), looked_at[0])
    assert any(not torch.equal(value, state[k]) for k, value in criterion.state_dict().items())


@pytest.mark.parametrize("with_classifier", [True, False])
def test_checkpoint_continues_exactly(with_classifier, tmp_path):
    def step(criterion, seed):
        features, labels = make_batch(seed)
        low, logits = run(make_layer(), features)
        pair = (features, low) if with_classifier else None
        return criterion(logits, labels, classifier=pair)

    first, second, fresh = (GBWCrossEntropyLoss(CLASSES, momentum=0.9) for _ in range(3))
    step(first, 0)
    torch.save(first.state_dict(), tmp_path / "loss.pth")
    second.load_state_dict(torch.load(tmp_path / "loss.pth", weights_only=True))
    for seed in (1, 2):
        assert torch.equal(step(second, seed), step(first, seed))
        assert torch.equal(second.weights, first.weights)
        step(fresh, seed)
        assert not torch.equal(fresh.weights, first.weights)


@pytest.mark.parametrize("with_classifier", [True, False])
def test_the_source_shapes_the_weights_of_other_terms(with_classifier):
    criterion = GBWCrossEntropyLoss(CLASSES, terms=("source", "late"))
    features, labels = make_batch()
    low, logits = run(make_layer(), features)
    pair = (features, low) if with_classifier else None
    with pytest.raises(ValueError, match="'late' came before any of the source"):
        criterion(logits, labels, classifier=pair, term="late")
    criterion(logits, labels, classifier=pair)
    of_source = criterion.weights
    criterion(logits, labels, classifier=pair, term="late")
    torch.testing.assert_close(criterion.weights, of_source)
    with pytest.raises(ValueError, match=r"term 'mixed' \(it has: source, late\)"):
        criterion(logits, labels, classifier=pair, term="mixed")


def test_arguments_are_checked():
    for settings, told in (
        ({"scale": "absolute"}, "scale is 'absolute'; expected one of released, relative"),
        ({"strength": 1.0}, "weighting scheme 'gbw' has no setting 'strength'"),
        ({"scheme": "gwb"}, "did you mean 'gbw'"),
        ({"scheme": "inverse_frequency"}, "needs class_counts"),
    ):
        with pytest.raises(ValueError, match=told):
            GBWCrossEntropyLoss(CLASSES, **settings)
