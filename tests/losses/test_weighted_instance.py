"""Centre and offset losses with class weights: by hand, against autograd, and over all schemes."""

from __future__ import annotations

import math

import pytest
import torch

from gbw_d2.losses import (
    ClassWeightedCenterLoss,
    ClassWeightedOffsetLoss,
    center_loss,
    offset_loss,
)
from gbw_d2.weighting import SCHEMES, LogEntry, SharedWeights, WeightLog, build_scheme

THINGS, CLASSES = (2, 5, 6), 8
LOSSES = {"center": (ClassWeightedCenterLoss, center_loss, 1)}
LOSSES["offset"] = (ClassWeightedOffsetLoss, offset_loss, 2)
# The schemes that these heads can use: no classifier to measure at, no logits to adjust.
AT_CLASSIFIER = [
    name for name in SCHEMES if SCHEMES.get(name).defaults.get("measure", "norm") != "norm"
]
USABLE = {name: {} for name in SCHEMES if name not in ("focal", *AT_CLASSIFIER)}
UNADJUSTED = {"logit_adjustment": 0.0, "pseudo_label_adjustment": 0.0}
USABLE |= {name: {"measure": "norm", **UNADJUSTED} for name in AT_CLASSIFIER}
ADAPTIVE = (*AT_CLASSIFIER, "gbw_norm", "gbw_released")


def make_loss(head, name="gbw_norm", things=THINGS, **overrides):
    counts = torch.arange(1.0, len(things) + 1)
    given = {"class_weights": counts.tolist()} if name == "fixed" else USABLE.get(name, {})
    scheme = build_scheme(name, len(things), {**given, **overrides}, counts)
    return LOSSES[head][0](scheme, things, CLASSES, head)


def call(criterion, *batch, term="source"):
    """Returns the loss and its log entry."""
    log = WeightLog()
    return criterion(*batch, term=term, log=log), log.get(criterion.head, term)


def make_batch(head, dtype=torch.float64, seed=0):
    """Prediction, target, weights, instance class (thing 6 absent), pixel weights."""
    generator = torch.Generator().manual_seed(seed)
    channels = LOSSES[head][2]
    prediction = torch.randn(2, channels, 5, 6, generator=generator, dtype=dtype)
    shape = (2, 5, 6) if head == "center" else (2, 2, 5, 6)
    target = torch.rand(shape, generator=generator, dtype=dtype)
    owner = torch.tensor([2, 255, 5, 2])[torch.randint(0, 4, (2, 5, 6), generator=generator)]
    weights = (torch.rand(2, 5, 6, generator=generator) > 0.3).to(dtype)
    return prediction, target, weights, owner, torch.rand(2, 5, 6, generator=generator, dtype=dtype)


def row(*values):
    return torch.tensor(values).view(1, 1, -1)


def test_center_by_hand():
    # Errors 3 and 4 on thing 2: g = 2 * 5 / 3. Error 10 on thing 5: g = 2 * 10 / 2.
    # u = (1/2, 3/2) and w = 1 + (u - 1) / 2. The skirt of error 1 weighs 1; void counts nowhere.
    prediction = row(3.0, 4.0, 10.0, 1.0, 7.0)[None]
    weights, owner = row(1.0, 1.0, 1.0, 1.0, 0.0), row(2, 2, 5, 255, 255)
    criterion = make_loss("center", things=(2, 5))
    loss, last = call(criterion, prediction, torch.zeros(1, 1, 5), weights, owner)
    torch.testing.assert_close(last.measure, torch.tensor([10 / 3, 10.0], dtype=torch.float64))
    assert last.weights.tolist() == [0.75, 1.25]
    assert last.counts.tolist() == [2, 1]
    assert last.class_ids == (2, 5)
    assert loss.item() == pytest.approx((0.75 * 25 + 1.25 * 100 + 1) / 4)


def test_offset_by_hand():
    # Eight pixels of thing 2, two of thing 5, no error 0: g = 4/9 and 2/3, u = 4/5 and 6/5.
    owner = row(*[2] * 8, *[5] * 2, 255)
    prediction = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 1, 11)
    criterion = make_loss("offset", things=(2, 5))
    target = torch.zeros(1, 2, 1, 11)
    loss, last = call(criterion, prediction, target, torch.ones(1, 1, 11), owner)
    torch.testing.assert_close(last.measure, torch.tensor([4 / 9, 2 / 3], dtype=torch.float64))
    torch.testing.assert_close(last.weights, torch.tensor([0.9, 1.1]))
    assert loss.item() == pytest.approx(3 * (0.9 * 8 + 1.1 * 2 + 1) / 11)


@pytest.mark.parametrize("head", LOSSES)
@pytest.mark.parametrize("shaping", [False, True])
def test_norms_against_autograd(head, shaping):
    prediction, target, weights, owner, q = make_batch(head)
    criterion = make_loss(head, pixel_weights_in_gradient=shaping)
    _, last = call(criterion, prediction, target, weights, owner, q)
    for place, thing in enumerate(THINGS):
        leaf = prediction.clone().requires_grad_()
        error = leaf - (target[:, None] if head == "center" else target)
        each = error.square().sum(1) if head == "center" else error.abs().sum(1)
        share = weights * (q if shaping else 1) * (owner == thing)
        (share * each).sum().div(share.sum() + 1).backward()
        assert last.measure[place].item() == pytest.approx(leaf.grad.norm())
        assert last.counts[place].item() == pytest.approx(share.sum())


@pytest.mark.parametrize("pixels", [1, 7, 40])
def test_norm_of_offsets_tells_size_only(pixels):
    criterion = make_loss("offset", things=(2,))
    for scale in (0.01, 100.0):
        prediction = scale * torch.randn(1, 2, 1, pixels, dtype=torch.float64)
        owner = torch.full((1, 1, pixels), 2)
        rest = torch.zeros_like(prediction), torch.ones(1, 1, pixels), owner
        _, last = call(criterion, prediction, *rest)
        assert last.measure.item() == pytest.approx(math.sqrt(2 * pixels) / (pixels + 1))
    # An error that is 0 has no slope.
    prediction[0, 0, 0, 0] = 0
    _, last = call(criterion, prediction, *rest)
    assert last.measure.item() == pytest.approx(math.sqrt(2 * pixels - 1) / (pixels + 1))


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("head", LOSSES)
def test_value_and_gradient_of_every_scheme(head, name):
    prediction, target, weights, owner, q = make_batch(head)
    ours, theirs = prediction.clone().requires_grad_(), prediction.clone().requires_grad_()
    criterion = make_loss(head, name)
    loss, last = call(criterion, ours, target, weights, owner, q)
    assert last.weights.shape == (3,)
    assert last.weights.sum().item() == pytest.approx(3, rel=1e-6)
    assert last.weights.dtype == torch.float32 and not last.weights.requires_grad
    # Each pixel's factor, looked up one by one.
    table = {**dict(zip(THINGS, last.weights.tolist(), strict=True)), 255: 1.0}
    factor = torch.tensor([table[c] for c in owner.flatten().tolist()]).view_as(owner)
    expected = LOSSES[head][1](theirs, target, weights, factor * q)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert (last.measure is not None) == (name in ADAPTIVE)
    if name in (*AT_CLASSIFIER, "gbw_norm"):
        assert last.weights[2] == 1 and (last.weights - 1).abs().max() > 1e-3


@pytest.mark.parametrize("head", LOSSES)
def test_without_weighting_it_is_the_loss_of_detectron2(head):
    prediction, target, weights, owner, _ = make_batch(head, torch.float32)
    loss = make_loss(head, "none")(prediction, target, weights, owner)
    assert torch.equal(loss, LOSSES[head][1](prediction, target, weights))


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("head", LOSSES)
def test_no_thing_in_the_batch(head, name):
    prediction, target, weights, owner, _ = make_batch(head, torch.float32)
    criterion = make_loss(head, name)
    loss = criterion(prediction, target, weights, torch.full_like(owner, 255))
    assert torch.equal(loss, LOSSES[head][1](prediction, target, weights))
    prediction.requires_grad_()
    loss = criterion(prediction, target, torch.zeros_like(weights), owner)
    loss.backward()
    assert loss == 0 and not prediction.grad.any()


def test_a_stuff_class_owns_no_pixel():
    prediction, target, weights, owner, _ = make_batch("center")
    criterion = make_loss("center")
    expected = criterion(prediction, target, weights, owner)
    stuff = torch.where(owner == 255, 0, owner)
    assert torch.equal(criterion(prediction, target, weights, stuff), expected)


def test_running_mean_of_an_absent_thing_is_kept():
    criterion = make_loss("center", momentum=0.5)
    prediction, target, weights, owner, _ = make_batch("center")
    criterion(prediction, target, weights, owner)
    first = criterion.scheme.state_dict()["state.source_norm.mean"]
    _, last = call(criterion, prediction, target, weights, owner.masked_fill(owner == 5, 255))
    state = criterion.scheme.state_dict()
    assert state["state.source_norm.mean"][1] == first[1] > 0 and last.weights[1] == 1
    assert state["state.source_norm.seen"].tolist() == [True, True, False]
    # Terms are kept apart.
    assert not state["state.mixed_norm.seen"].any()


@pytest.mark.parametrize("head", LOSSES)
def test_terms_that_are_not_weighted_are_not_measured(head):
    criterion = make_loss(head, acts_on="source")
    batch = make_batch(head)
    _, source = call(criterion, *batch[:4])
    loss, mixed = call(criterion, *batch[:4], term="mixed")
    assert source.measure is not None
    assert mixed.measure is None
    torch.testing.assert_close(loss, LOSSES[head][1](*batch[:3]))


def log_semantic(log, *weights):
    """Logs weights of the semantic head."""
    entry = LogEntry(tuple(range(CLASSES)), torch.tensor(weights), torch.ones(CLASSES))
    log.add("semantic", "source", entry)


def test_shared_weights_by_hand():
    criterion = ClassWeightedOffsetLoss(
        SharedWeights("semantic", THINGS), THINGS, CLASSES, "offset"
    )
    prediction, target, weights, owner, _ = make_batch("offset")
    log = WeightLog()
    log_semantic(log, 9.0, 9.0, 0.5, 9.0, 9.0, 1.5, 2.0, 9.0)
    loss = criterion(prediction, target, weights, owner, log=log)
    # (0.5, 1.5, 2) sums to 4, the things are 3.
    torch.testing.assert_close(
        log.get("offset", "source").weights, torch.tensor([0.375, 1.125, 1.5])
    )
    factor = 1 - 0.625 * (owner == 2) + 0.125 * (owner == 5)
    torch.testing.assert_close(loss, offset_loss(prediction, target, weights, factor))
    log_semantic(log, *[0.0] * CLASSES)
    criterion(prediction, target, weights, owner, log=log)
    assert log.get("offset", "source").weights.tolist() == [1.0] * 3
    for more in ({"term": "mixed", "log": log}, {"term": "mixed"}):
        with pytest.raises(ValueError, match="'semantic' has no weights of term 'mixed'"):
            criterion(prediction, target, weights, owner, **more)


@pytest.mark.parametrize("head", LOSSES)
def test_a_step_never_asks_the_device_for_a_value(head):
    batch = [tensor.to("meta") for tensor in make_batch(head)]
    batch[0].requires_grad_()
    log, weights = WeightLog(), torch.ones(CLASSES, device="meta")
    log.add("semantic", "source", LogEntry(tuple(range(CLASSES)), weights, weights))
    criteria = [make_loss(head, name) for name in USABLE]
    criteria.append(LOSSES[head][0](SharedWeights("semantic", THINGS), THINGS, CLASSES))
    criteria.append(make_loss(head, momentum=0.9, pixel_weights_in_gradient=True))
    for criterion in criteria:
        criterion.to("meta")(*batch, log=log).backward()
        assert criterion.scheme.nonfinite.device.type == "meta"


@pytest.mark.parametrize("head", LOSSES)
def test_mistakes_are_explained(head):
    prediction, target, weights, owner, q = make_batch(head)
    criterion = make_loss(head)
    with pytest.raises(ValueError, match="instance_class has shape"):
        criterion(prediction, target, weights, owner[:1])
    with pytest.raises(ValueError, match="pixel_weights has shape"):
        criterion(prediction, target, weights, owner, q[:1])
    with pytest.raises(ValueError, match="labels hold 77"):
        criterion(prediction, target, weights, owner.masked_fill(owner == 5, 77))
    for value in (float("nan"), float("inf")):
        broken = prediction.clone()
        broken[0, 0, 2, 3] = value
        with pytest.raises(ValueError, match="NaN or inf"):
            criterion(broken, target, weights, owner)
    with pytest.raises(ValueError, match="'focal' is not defined for this head"):
        make_loss(head, "focal")
    for key in ("logit_adjustment", "pseudo_label_adjustment"):
        with pytest.raises(ValueError, match="no softmax over classes"):
            make_loss(head, "none", **{key: 0.5})
    with pytest.raises(ValueError, match="at a classifier, but this head has none"):
        make_loss(head, "gbw", measure="hindrance")
    with pytest.raises(ValueError, match="built for 2 classes; head 'loss' has 3"):
        LOSSES[head][0](build_scheme("none", 2), THINGS, CLASSES)
