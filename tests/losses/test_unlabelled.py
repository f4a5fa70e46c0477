from __future__ import annotations

import math

import pytest
import torch

from gbw_d2.losses import entropy_loss, max_squares_loss


def make_logits(dtype=torch.float64):
    return 2 * torch.randn(3, 5, 4, 6, dtype=dtype, generator=torch.Generator().manual_seed(0))


def test_max_squares_by_hand():
    # p = (3/4, 1/4): mean of (9/16, 1/16) is 5/16; minus its half.
    logits = torch.tensor([math.log(3.0), 0.0]).view(1, 2, 1, 1)
    assert max_squares_loss(logits).item() == pytest.approx(-5 / 32)


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_image_weights_against_the_pixel_loop(ratio):
    logits = make_logits()
    expected = 0.0
    for image in logits.softmax(1):
        predicted = image.argmax(0).flatten().tolist()
        squares = image.square().sum(0).flatten().tolist()
        for class_id, value in zip(predicted, squares, strict=True):
            count = predicted.count(class_id)
            expected -= value / max(count**ratio * len(predicted) ** (1 - ratio), 1)
    expected /= logits.shape[0] * logits.shape[1]
    assert max_squares_loss(logits, ratio).item() == pytest.approx(expected)


def test_ratio_zero_is_twice_the_plain_loss():
    logits = make_logits()
    torch.testing.assert_close(max_squares_loss(logits, 0.0), 2 * max_squares_loss(logits))


def test_image_weights_do_not_depend_on_the_batch():
    logits = make_logits()
    single = torch.stack([max_squares_loss(image[None], 0.2) for image in logits]).mean()
    torch.testing.assert_close(max_squares_loss(logits, 0.2), single)


@pytest.mark.parametrize("ratio", [None, 0.2])
def test_max_squares_gradient(ratio):
    logits = make_logits().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: max_squares_loss(z, ratio), logits)


def test_entropy_limits_and_value():
    assert entropy_loss(torch.zeros(2, 7, 3, 3)).item() == pytest.approx(1.0)
    one_hot = torch.full((1, 7, 3, 3), -1e4)
    one_hot[:, 2] = 1e4
    assert entropy_loss(one_hot).item() == 0.0
    logits = make_logits()
    expected = torch.distributions.Categorical(logits=logits.movedim(1, -1)).entropy().mean()
    torch.testing.assert_close(entropy_loss(logits), expected / math.log(5))


def test_entropy_gradient():
    assert torch.autograd.gradcheck(entropy_loss, make_logits().requires_grad_())
    extreme = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    entropy_loss(extreme).backward()
    assert torch.isfinite(extreme.grad).all()


@pytest.mark.parametrize("loss", [entropy_loss, max_squares_loss])
def test_half_precision_is_computed_in_float32(loss):
    logits = make_logits(torch.float32).half()
    assert loss(logits).dtype == torch.float32
    assert torch.equal(loss(logits), loss(logits.float()))


def test_errors():
    with pytest.raises(ValueError, match="K >= 2"):
        entropy_loss(torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="expected"):
        max_squares_loss(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"0\.\.1"):
        max_squares_loss(torch.zeros(1, 2, 2, 2), -0.2)
