from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gbw_d2.weighting import class_statistics, logit_gradient_norms
from gbw_d2.weighting import pixels as pixels_module
from gbw_d2.weighting.pixels import prepare_labels


def norms_by_autograd(logits, labels, ignore_index=255, pixel_weights=None):
    """The norms of the release, re-derived: autograd of the sum of the class-mean losses."""
    leaf = logits.detach().double().requires_grad_()
    weights = torch.ones(labels.shape, dtype=torch.float64)
    if pixel_weights is not None:
        weights = pixel_weights.double()
    losses = F.cross_entropy(
        leaf, labels.masked_fill(labels == ignore_index, 0), reduction="none"
    ) * (labels != ignore_index)
    total = leaf.new_zeros(())
    for class_id in range(logits.shape[1]):
        member = (labels == class_id) & (labels != ignore_index)
        total = total + (losses * weights * member).sum() / ((weights * member).sum() + 1)
    total.backward()
    return leaf.grad.square().sum((0, 2, 3)).sqrt()


def make_batch(margin=0.0, classes=19, dtype=torch.float32, shape=(2, 17, 23)):
    generator = torch.Generator().manual_seed(0)
    present = max(classes - 1, 2)  # the last of many classes is absent
    labels = torch.randint(0, present, shape, generator=generator)
    labels[:, :2] = 255
    logits = torch.randn(shape[0], classes, *shape[1:], generator=generator)
    logits += margin * F.one_hot(labels.clamp(max=classes - 1), classes).permute(0, 3, 1, 2)
    return logits.to(dtype), labels


@pytest.mark.parametrize("margin", [0.0, 3.0, 12.0, 15.0, 20.0])
def test_norms_against_autograd(margin):
    logits, labels = make_batch(margin)
    expected = norms_by_autograd(logits, labels)
    norms = logit_gradient_norms(logits, labels)
    assert norms.dtype == torch.float32
    assert not norms.requires_grad
    assert (norms.double() - expected).abs().max() <= 1e-5 * expected.max()


@pytest.mark.parametrize("classes", [2, 150])
@pytest.mark.parametrize("ignore_index", [255, -1, 0])
def test_norms_for_any_ignore_value_and_class_count(classes, ignore_index):
    logits, labels = make_batch(2.0, classes, shape=(1, 6, 5))
    labels[labels == 255] = ignore_index
    expected = norms_by_autograd(logits, labels, ignore_index)
    norms = logit_gradient_norms(logits, labels, ignore_index)
    torch.testing.assert_close(norms.double(), expected, rtol=1e-5, atol=1e-8)


def test_norms_by_hand_of_one_pixel():
    # p = (1/2, 1/2), n = 1: both channels have |+-1/2| / (1 + 1) = 1/4.
    norms = logit_gradient_norms(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long))
    assert norms.tolist() == [0.25, 0.25]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, labels = make_batch(5.0, dtype=dtype)
    same = logit_gradient_norms(logits.float(), labels)
    assert torch.equal(logit_gradient_norms(logits, labels), same)


def test_extreme_logits():
    logits, labels = make_batch()
    logits = torch.where(logits > 0, 1e4, -1e4)
    expected = norms_by_autograd(logits, labels)
    norms = logit_gradient_norms(logits, labels)
    assert torch.isfinite(norms).all()
    assert (norms.double() - expected).abs().max() <= 1e-5 * expected.max()


def test_chunks_do_not_matter(monkeypatch):
    logits, labels = make_batch(4.0)
    whole = logit_gradient_norms(logits, labels)
    monkeypatch.setattr(pixels_module, "CHUNK_ELEMENTS_CPU", 1)
    torch.testing.assert_close(logit_gradient_norms(logits, labels), whole)


def test_statistics_with_pixel_weights():
    logits, labels = make_batch(1.0, classes=5)
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1))
    targets, invalid = prepare_labels(labels, 5, 255)
    plain = class_statistics(logits, targets, invalid, weights)
    shaped = class_statistics(logits, targets, invalid, weights, pixel_weights_in_gradient=True)
    losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=255) * weights
    for class_id in range(5):
        member = labels == class_id
        assert plain.counts[class_id] == member.sum()
        assert shaped.counts[class_id].item() == pytest.approx(weights[member].sum().item())
        expected = losses[member].sum().item()
        assert plain.loss_sums[class_id].item() == pytest.approx(expected, rel=1e-5)
        assert shaped.loss_sums[class_id].item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(
        shaped.measure, norms_by_autograd(logits, labels, 255, weights), rtol=1e-5, atol=1e-8
    )
    torch.testing.assert_close(
        plain.measure, norms_by_autograd(logits, labels), rtol=1e-5, atol=1e-8
    )


def test_all_ignored_gives_zero():
    norms = logit_gradient_norms(torch.randn(1, 4, 3, 3), torch.full((1, 3, 3), 255))
    assert norms.tolist() == [0.0] * 4


def test_errors_name_the_cause():
    logits, labels = make_batch(classes=5)
    with pytest.raises(ValueError, match=r"labels hold 7, 9; expected class ids 0\.\.4"):
        wrong = labels.clone()
        wrong[0, 5, 5], wrong[1, 6, 6] = 7, 9
        logit_gradient_norms(logits, wrong)
    for value in (float("nan"), float("inf")):
        broken = logits.clone()
        broken[0, 2, 8, 8] = value
        with pytest.raises(ValueError, match="NaN or inf"):
            logit_gradient_norms(broken, labels)
    with pytest.raises(ValueError, match=r"need labels of shape \(2, H, W\)"):
        logit_gradient_norms(logits, labels[:1])
    with pytest.raises(ValueError, match="integer class ids"):
        logit_gradient_norms(logits, labels.float())


def test_minus_infinity_off_the_label_is_a_probability_of_zero():
    logits, labels = make_batch(classes=5)
    logits[:, 4] = float("-inf")  # class 4 is absent
    norms = logit_gradient_norms(logits, labels)
    torch.testing.assert_close(
        norms[:4], logit_gradient_norms(logits[:, :4], labels), rtol=1e-6, atol=0
    )
    assert norms[4] == 0
