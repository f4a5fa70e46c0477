from __future__ import annotations

import math

import pytest
import torch

from gbw_d2.losses import ADVERSARIAL_LOSSES, entropy_loss, max_squares_loss


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


def test_max_squares_limits():
    classes = 7
    uniform = torch.zeros(2, classes, 3, 5)
    assert max_squares_loss(uniform).item() == pytest.approx(-1 / (2 * classes**2))
    one_hot = uniform.clone()
    one_hot[:, 3] = 1e4
    assert max_squares_loss(one_hot).item() == pytest.approx(-1 / (2 * classes))
    # All 15 pixels are of one class: N_c = N, the weights are 1 / N whatever the ratio.
    assert max_squares_loss(one_hot, 0.6).item() == pytest.approx(-1 / classes)


def test_image_weights_by_hand():
    # Nearly one-hot: 3 pixels of class 0, 1 of class 1. With a = 1/2: w = 1 / sqrt(N_c N).
    logits = torch.full((1, 2, 1, 4), -100.0)
    logits[0, 0, 0, :3] = logits[0, 1, 0, 3] = 100.0
    expected = -(3 / math.sqrt(3 * 4) + 1 / math.sqrt(1 * 4)) / 2
    assert max_squares_loss(logits, 0.5).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ratio", "half", "factor"),
    [(None, "always", 1), (None, "never", 2), (0.2, "always", 0.5), (0.2, "never", 1)],
)
def test_the_factors_by_key(ratio, half, factor):
    logits = make_logits()
    released = max_squares_loss(logits, ratio)
    torch.testing.assert_close(max_squares_loss(logits, ratio, half), factor * released)
    over_pixels = max_squares_loss(logits, ratio, mean_over_classes=False)
    torch.testing.assert_close(over_pixels, logits.shape[1] * released)


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


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES.names())
def test_adversarial_losses_against_torch(name):
    scores = make_logits()
    labels = torch.ones_like(scores)
    oracle = {
        "binary_cross_entropy": torch.nn.BCELoss(),
        "least_squares": torch.nn.MSELoss(),
    }[name]
    inputs = scores.sigmoid() if name == "binary_cross_entropy" else scores
    loss = ADVERSARIAL_LOSSES.get(name)
    torch.testing.assert_close(loss(scores, 1.0), oracle(inputs, labels))
    torch.testing.assert_close(loss(scores, 0.0), oracle(inputs, 0 * labels))


def test_adversarial_losses_of_zero_scores():
    zeros = torch.zeros(2, 1, 3, 3)
    for domain in (0.0, 1.0):
        cross_entropy = ADVERSARIAL_LOSSES.get("binary_cross_entropy")(zeros, domain)
        assert cross_entropy.item() == pytest.approx(math.log(2))
        assert ADVERSARIAL_LOSSES.get("least_squares")(zeros, domain).item() == domain


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
    with pytest.raises(ValueError, match="auto, always, never"):
        max_squares_loss(torch.zeros(1, 2, 2, 2), half="yes")
