"""RoI losses: by hand, against torch and autograd, and over all schemes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from gbw_d2.losses import (
    ClassWeightedRoIBox,
    ClassWeightedRoIClassification,
    ClassWeightedRoIMask,
)
from gbw_d2.weighting import SCHEMES, WeightLog, build_scheme, class_hindrance

CLASSES = 4
AT_CLASSIFIER = [
    name for name in SCHEMES if SCHEMES.get(name).defaults.get("measure", "norm") != "norm"
]
MASK_SCHEMES = [name for name in SCHEMES if name not in ("focal", *AT_CLASSIFIER)]


def make_loss(kind, name, classes=CLASSES, **overrides):
    counts = torch.arange(1.0, classes + 1)
    given = {"class_weights": counts.tolist()} if name == "fixed" else {}
    return kind(build_scheme(name, classes, {**given, **overrides}, counts))


def call(criterion, *rois, term="source"):
    """Returns the loss and its log entry."""
    log = WeightLog()
    return criterion(*rois, term=term, log=log), log.get("loss", term)


def make_rois(rois=20, dtype=torch.float64):
    """Class logits, labels (class 3 absent, background 4), features, mask logits, masks."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(rois, *shape, generator=generator, dtype=dtype)

    labels = torch.tensor([0, 1, 2, 4, 4])[torch.randint(0, 5, (rois,), generator=generator)]
    return 2 * draw(5), labels, draw(6), 2 * draw(CLASSES, 3, 3), draw(3, 3) > 0


def test_classification_by_hand():
    # All probabilities 1/3, two RoIs of class 0, one of class 1, one of background:
    # g_0^2 = 2/9 4/9 + 1/4 1/9 + 1/4 1/9 = 50/324, g_1^2 = 2/9 1/9 + 1/4 4/9 + 1/4 1/9 = 53/324.
    logits, labels = torch.zeros(4, 3), torch.tensor([0, 1, 0, 2])
    criterion = make_loss(ClassWeightedRoIClassification, "gbw_released", 2, lam=0.01)
    loss, last = call(criterion, logits, labels)
    expected = torch.tensor([50 / 324, 53 / 324], dtype=torch.float64)
    torch.testing.assert_close(last.measure.square(), expected, rtol=1e-6, atol=0)
    step = 1.5 / 324 / 0.02
    torch.testing.assert_close(last.weights, torch.tensor([1 - step, 1 + step]))
    assert last.counts.tolist() == [2, 1]
    assert loss.item() == pytest.approx(math.log(3) * (2 * (1 - step) + (1 + step) + 1) / 4)


@pytest.mark.parametrize("name", SCHEMES.names())
def test_classification_of_every_scheme(name):
    logits, labels, features, *_ = make_rois()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    criterion = make_loss(ClassWeightedRoIClassification, name)
    loss, last = call(criterion, ours, labels, features)
    assert last.weights.shape == last.counts.shape == (CLASSES,)
    assert last.weights.sum().item() == pytest.approx(CLASSES, rel=1e-6)
    weights = torch.cat([last.weights, torch.ones(1)]).double()
    each = F.cross_entropy(theirs, labels, weights, reduction="none")
    each = each * (1 - theirs.softmax(1).gather(1, labels[:, None])[:, 0]) ** (
        criterion.scheme.focal_gamma
    )
    torch.testing.assert_close(loss, each.mean())
    loss.backward()
    each.mean().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    if name == "none":
        torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    if name == "gbw_hindrance":
        maps = (x.t()[None, :, :, None] for x in (features, logits))
        expected, _ = class_hindrance(*maps, labels.view(1, -1, 1))
        torch.testing.assert_close(last.measure, expected[:-1])
        with pytest.raises(ValueError, match="needs features"):
            criterion(logits, labels)


def test_adjusted_logits_leave_the_background_alone():
    logits, labels, *_ = make_rois()
    criterion = make_loss(ClassWeightedRoIClassification, "fixed", logit_adjustment=1.0)
    _, last = call(criterion, logits, labels)
    weights = last.weights
    shift = torch.where(last.counts > 0, weights, 1.0).log()
    shifted = logits + torch.cat([shift, shift.new_zeros(1)])
    everywhere = torch.cat([weights, weights.new_ones(1)])
    each = everywhere[labels] * F.cross_entropy(shifted, labels, reduction="none")
    torch.testing.assert_close(criterion(logits, labels), each.mean())


@pytest.mark.parametrize("name", ["gbw_hindrance", "gbw_norm"])
def test_terms_that_are_not_weighted_are_not_measured(name):
    logits, labels, features, *_ = make_rois()
    criterion = make_loss(ClassWeightedRoIClassification, name, acts_on="source")
    criterion(logits, labels, features)
    # No features are asked for, since nothing is measured at the classifier.
    loss, last = call(criterion, logits, labels, term="mixed")
    assert last.measure is None
    assert torch.equal(last.weights, torch.ones(CLASSES))
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


def test_masks_that_are_not_weighted_are_not_measured():
    _, labels, _, logits, masks = make_rois()
    criterion = make_loss(ClassWeightedRoIMask, "gbw_norm", acts_on="source")
    _, last = call(criterion, logits, labels.clamp(max=2), masks, term="mixed")
    assert last.measure is None
    assert torch.equal(last.weights, torch.ones(CLASSES))


def test_ignored_rois_count_in_the_mean():
    logits, labels, *_ = make_rois(4)
    criterion = make_loss(ClassWeightedRoIClassification, "none")
    labels[0] = -1
    expected = F.cross_entropy(logits[1:], labels[1:]) * 3 / 4
    torch.testing.assert_close(criterion(logits, labels), expected)


def test_masks_by_hand():
    # Logit 0 in a 2 x 2 mask: |dl/dz|^2 = 4 (1/2 / 4)^2 = 1/16. Four RoIs of class 0, one of
    # class 1: g = sqrt(4/16) / 5 = 0.1 and (1/4) / 2 = 0.125; u = 8/9, 10/9; w = 17/18, 19/18.
    labels = torch.tensor([0, 0, 1, 0, 0])
    logits = torch.randn(5, 2, 2, 2)
    logits[torch.arange(5), labels] = 0
    criterion = make_loss(ClassWeightedRoIMask, "gbw_norm", 2)
    loss, last = call(criterion, logits, labels, torch.rand(5, 2, 2) > 0.5)
    torch.testing.assert_close(last.measure, torch.tensor([0.1, 0.125], dtype=torch.float64))
    torch.testing.assert_close(last.weights, torch.tensor([17 / 18, 19 / 18]))
    assert last.counts.tolist() == [4, 1]
    assert loss.item() == pytest.approx(math.log(2) * (4 * 17 / 18 + 19 / 18) / 5)


@pytest.mark.parametrize("name", MASK_SCHEMES)
def test_masks_of_every_scheme(name):
    _, labels, _, logits, masks = make_rois()
    labels = labels.clamp(max=2)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    criterion = make_loss(ClassWeightedRoIMask, name)
    loss, last = call(criterion, ours, labels, masks)
    assert last.weights.sum().item() == pytest.approx(CLASSES, rel=1e-6)
    own = theirs[torch.arange(len(labels)), labels]
    each = F.binary_cross_entropy_with_logits(own, masks.double(), reduction="none").mean((1, 2))
    expected = (each * last.weights[labels]).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    if name == "none":
        plain = F.binary_cross_entropy_with_logits(own.detach(), masks.double())
        torch.testing.assert_close(loss.detach(), plain)
    if last.measure is not None:
        for c in range(CLASSES):
            leaf = logits.clone().requires_grad_()
            own = leaf[torch.arange(len(labels)), labels][labels == c]
            truth = masks.double()[labels == c]
            total = F.binary_cross_entropy_with_logits(own, truth, reduction="sum") / 9
            (total / ((labels == c).sum() + 1)).backward()
            assert last.measure[c].item() == pytest.approx(leaf.grad.norm().item())


def test_norm_of_sure_masks_keeps_its_digits():
    criterion = make_loss(ClassWeightedRoIMask, "gbw_norm", 1)
    truth = torch.tensor([[[True, False]]])
    logits, label = torch.tensor([40.0, -40.0]).view(1, 1, 1, 2), torch.zeros(1, dtype=torch.int)
    _, last = call(criterion, logits, label, truth)
    # Two cells of slope e^-40 / 2, one RoI.
    expected = math.sqrt(2) * math.exp(-40) / 2 / 2
    assert last.measure.item() == pytest.approx(expected, rel=1e-4, abs=0)


@pytest.mark.parametrize("name", MASK_SCHEMES)
def test_no_roi(name):
    empty = torch.zeros(0, dtype=torch.long)
    boxes, masks = (
        torch.zeros(0, 5, requires_grad=True),
        torch.zeros(0, 4, 3, 3, requires_grad=True),
    )
    loss = make_loss(ClassWeightedRoIClassification, name)(boxes, empty, torch.zeros(0, 6))
    loss = loss + make_loss(ClassWeightedRoIMask, name)(masks, empty, torch.zeros(0, 3, 3))
    loss.backward()
    assert loss == 0 and boxes.grad.shape == (0, 5) and masks.grad.shape == (0, 4, 3, 3)
    at_classifier = make_loss(ClassWeightedRoIClassification, "gbw")
    loss, last = call(at_classifier, boxes, empty, torch.zeros(0, 6))
    assert loss == 0
    assert last.weights.tolist() == [1.0] * CLASSES


def test_a_step_never_asks_the_device_for_a_value():
    boxes, labels, features, logits, masks = (x.to("meta") for x in make_rois())
    boxes.requires_grad_()
    logits.requires_grad_()
    for name in SCHEMES:
        criterion = make_loss(ClassWeightedRoIClassification, name).to("meta")
        criterion(boxes, labels, features).backward()
        assert criterion.scheme.nonfinite.device.type == "meta"
    for name in MASK_SCHEMES:
        make_loss(ClassWeightedRoIMask, name).to("meta")(logits, labels, masks).backward()


def test_mistakes_are_explained():
    boxes, labels, features, logits, masks = make_rois()
    classify = make_loss(ClassWeightedRoIClassification, "gbw_norm")
    segment = make_loss(ClassWeightedRoIMask, "gbw_norm")
    with pytest.raises(ValueError, match=r"logits have shape \(20, 4\); expected \(20, 5\)"):
        classify(boxes[:, :4], labels)
    with pytest.raises(ValueError, match=r"labels have shape \(19,\)"):
        classify(boxes, labels[:19])
    with pytest.raises(ValueError, match="labels hold 4"):
        segment(logits, labels, masks)
    with pytest.raises(ValueError, match=r"expected \(20, 4, 3, 2\)"):
        segment(logits, labels, masks[..., :2])
    with pytest.raises(ValueError, match="NaN or inf"):
        classify(boxes.masked_fill(boxes > 1, float("nan")), labels)
    with pytest.raises(ValueError, match="NaN or inf"):
        segment(logits * float("inf"), labels.clamp(max=2), masks)
    with pytest.raises(ValueError, match="not defined for this head"):
        make_loss(ClassWeightedRoIMask, "focal")
    with pytest.raises(ValueError, match="at a classifier, but this head has none"):
        make_loss(ClassWeightedRoIMask, "gbw")
    with pytest.raises(ValueError, match=r"expected \(N, D, h, w\)"):
        make_loss(ClassWeightedRoIClassification, "gbw")(boxes, labels, features[:3])


def test_boxes_by_hand():
    # Class 0 twice with errors 1 and 3 in one delta, class 1 once with error 2; 10 RoIs in all.
    deltas = torch.zeros(3, 4, requires_grad=True)
    wanted = torch.tensor([[1.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, -2.0, 0]])
    criterion = make_loss(ClassWeightedRoIBox, "fixed", 2)
    loss, last = call(criterion, deltas, wanted, torch.tensor([0, 0, 1]), 10)
    # Fixed weights 1 and 2 are scaled to sum 2.
    torch.testing.assert_close(loss, torch.tensor((2 / 3 * 4 + 4 / 3 * 2) / 10))
    assert last.counts.tolist() == [2, 1]
    loss.backward()
    assert deltas.grad[1, 1].item() == pytest.approx(-2 / 3 / 10)


def test_box_norms_are_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    deltas = torch.randn(12, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    labels = torch.arange(12) % 3
    criterion = make_loss(ClassWeightedRoIBox, "gbw_norm", 3)
    _, last = call(criterion, deltas, wanted, labels, 20, 0.5)
    each = F.smooth_l1_loss(deltas, wanted, reduction="none", beta=0.5).sum(1)
    for c in range(3):
        total = each[labels == c].sum() / 5
        (gradient,) = torch.autograd.grad(total, deltas, retain_graph=True)
        torch.testing.assert_close(last.measure[c], gradient.norm())


def test_boxes_of_no_object():
    criterion = make_loss(ClassWeightedRoIBox, "gbw_norm")
    deltas = torch.zeros(0, 4, requires_grad=True)
    loss, _ = call(criterion, deltas, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 0)
    assert loss == 0
    loss.backward()
