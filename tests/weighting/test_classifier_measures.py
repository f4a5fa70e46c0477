from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gbw_d2.weighting import class_hindrance, classifier_measure, downsample_labels
from gbw_d2.weighting import pixels as pixels_module


def hindrance_by_autograd(features, weight, bias, labels, pixel_weights=None):
    """r_c from the gradients of the class-mean losses at a linear classifier's weight."""
    features, weight = features.double(), weight.detach().double().requires_grad_()
    logits = torch.einsum("kd,ndhw->nkhw", weight, features) + bias.double().view(1, -1, 1, 1)
    losses = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    factor = torch.ones_like(losses) if pixel_weights is None else pixel_weights.double()
    classes = weight.shape[0]
    counts = torch.stack([factor[labels == c].sum() for c in range(classes)])
    share = counts / counts.sum()
    gradients = []
    for c in range(classes):
        member = labels == c
        mean = (losses * factor)[member].sum() / counts[c].clamp(min=1e-30)
        (gradient,) = torch.autograd.grad(mean, weight, retain_graph=True)
        gradients.append(gradient)
    ratio = torch.zeros(classes, dtype=torch.float64)
    for c in range(classes):
        if counts[c] == 0:
            continue
        own = share[c] * gradients[c].square().sum()
        other = sum(
            share[d] * (gradients[c] * gradients[d]).sum() for d in range(classes) if d != c
        )
        ratio[c] = max(-other.item(), 0) / own.item()
    return logits.detach(), ratio, counts > 0


def test_the_measures_by_hand():
    # Two classes share one feature of 1; softmax 0.8 / 0.2 at three pixels of class 0 and one of 1.
    features = torch.ones(1, 1, 1, 4)
    logits = torch.tensor([0.8, 0.2]).log().view(1, 2, 1, 1).expand(1, 2, 1, 4)
    labels = torch.tensor([[[0, 0, 0, 1]]])
    # A_0 = (-0.2, 0.2), A_1 = (0.8, -0.8): <A_0, A_0> = 0.08, <A_1, A_1> = 1.28, and
    # <A_0, A_1> = -0.32.
    expected = {
        "class_gradient": [0.08**0.5, 1.28**0.5],
        "hindrance": [0.25 * 0.32 / (0.75 * 0.08), 0.75 * 0.32 / (0.25 * 1.28)],
    }
    for measure, values in expected.items():
        found, present = classifier_measure(measure, features, logits, labels)
        torch.testing.assert_close(found, torch.tensor(values))
        assert present.all()


def make_batch(classes=7, depth=11, shape=(2, 21, 19), seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(shape[0], depth, *shape[1:], generator=generator).relu()
    weight = torch.randn(classes, depth, generator=generator) / 10
    bias = torch.randn(classes, generator=generator) / 10
    # Class 0 is frequent, class `classes - 2` absent.
    drawn = torch.rand(shape, generator=generator).square() * (classes - 1)
    labels = drawn.long()
    labels[labels == classes - 2] = classes - 1
    labels[:, 0] = 255
    return features, weight, bias, labels


@pytest.mark.parametrize("classes", [4, 7, 40])
def test_against_autograd_on_a_linear_classifier(classes):
    features, weight, bias, labels = make_batch(classes)
    logits, expected, present = hindrance_by_autograd(features, weight, bias, labels)
    ratio, found = class_hindrance(features, logits.float(), labels)
    assert ratio.dtype == torch.float32
    assert torch.equal(found, present)
    assert (expected > 0).sum() > 1
    torch.testing.assert_close(ratio.double(), expected, rtol=1e-4, atol=1e-5)


def test_more_pixels_than_one_block():
    features, weight, bias, labels = make_batch(shape=(1, 40, 50))
    assert (labels == 0).sum() > 256
    logits, expected, _ = hindrance_by_autograd(features, weight, bias, labels)
    ratio, _ = class_hindrance(features.double(), logits, labels)
    torch.testing.assert_close(ratio.double(), expected, rtol=1e-5, atol=1e-7)


def test_pieces_of_the_grouped_product_do_not_matter(monkeypatch):
    features, weight, bias, labels = make_batch(shape=(1, 40, 50))
    logits, _, _ = hindrance_by_autograd(features, weight, bias, labels)
    whole, _ = class_hindrance(features.double(), logits, labels)
    monkeypatch.setattr(pixels_module, "CHUNK_ELEMENTS_CPU", 1)
    one_block_each, _ = class_hindrance(features.double(), logits, labels)
    torch.testing.assert_close(one_block_each, whole)


def test_pixel_weights():
    features, weight, bias, labels = make_batch()
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2))
    weights[labels == 1] = 0
    logits, expected, present = hindrance_by_autograd(features, weight, bias, labels, weights)
    ratio, found = class_hindrance(features, logits.float(), labels, pixel_weights=weights)
    assert torch.equal(found, present)
    assert not found[1]
    torch.testing.assert_close(ratio.double(), expected, rtol=1e-4, atol=1e-5)


def test_hindered_by_hand():
    # One feature of value 1, logits 0 and 2 classes, 3 pixels of class 0 and 1 of class 1:
    # A_0 = (-1/2, 1/2), A_1 = -A_0. Class 1: h = 3/4 * 1/2, own = 1/4 * 1/2, so r = 3; r_0 = 1/3.
    labels = torch.tensor([[[0, 0], [0, 1]]])
    ratio, _ = class_hindrance(torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2, 2), labels)
    torch.testing.assert_close(ratio, torch.tensor([1 / 3, 3.0]))


def test_nothing_labelled_and_perfect_classes_give_zero():
    features, logits = torch.randn(1, 3, 2, 2), torch.randn(1, 4, 2, 2)
    ratio, present = class_hindrance(features, logits, torch.full((1, 2, 2), 255))
    assert ratio.tolist() == [0.0] * 4
    assert not present.any()
    labels = torch.tensor([[[0, 1], [2, 3]]])
    perfect = 1e4 * F.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    ratio, present = class_hindrance(features, perfect, labels)
    assert ratio.tolist() == [0.0] * 4
    assert present.all()


def test_errors():
    features, logits = torch.randn(1, 3, 2, 2), torch.randn(1, 4, 2, 2)
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"expected \(N, D, h, w\)"):
        class_hindrance(features[:, :, :1], logits, labels)
    with pytest.raises(ValueError, match="NaN or inf"):
        class_hindrance(features * float("nan"), logits, labels)
    with pytest.raises(ValueError, match="labels hold 9"):
        class_hindrance(features, logits, labels + 9)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (1, 1), (8, 12), (16, 24)])
def test_downsampling_is_nearest_exact(size):
    labels = torch.randint(0, 19, (2, 8, 12), generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()
    assert torch.equal(downsample_labels(labels, size), expected)
