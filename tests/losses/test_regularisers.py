"""MRKLD and LRENT: by hand, against their definitions, and the rule that keeps a label."""

from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gbw_d2.losses.regularisers import lrent_soft_labels, mrkld_loss, soft_cross_entropy


def test_mrkld_by_hand() -> None:
    # p = (3/4, 1/4): -(log 3/4 + log 1/4) / 2; the second pixel has no label.
    logits = torch.tensor([math.log(3.0), 9.0, 0.0, 0.0]).view(1, 2, 1, 2)
    labels = torch.tensor([[[1, 255]]])
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    assert mrkld_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)
    uniform = mrkld_loss(torch.zeros(1, 16, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
    assert uniform.item() == pytest.approx(math.log(16), rel=1e-6)


def test_mrkld_gradient_is_that_of_the_kl_divergence() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 5, (2, 3, 4))
    labels[0, :2] = 255
    mrkld_loss(logits, labels).backward()
    kept = (labels != 255).unsqueeze(1)
    expected = kept * (logits.detach().softmax(1) - 1 / 5) / kept.sum()
    torch.testing.assert_close(logits.grad, expected)


def test_no_labelled_pixel_gives_zero() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = mrkld_loss(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
    soft = torch.full((1, 3, 2, 2), 1 / 3)
    assert soft_cross_entropy(logits, soft, torch.zeros(1, 2, 2, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5])
def test_lrent_keeps_a_label_where_it_lowers_the_objective(alpha: float) -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 6, 20, 20, dtype=torch.float64) * 2
    thresholds = torch.tensor([0.9, 0.6, 0.3, 0.99, 0.5, 0.7], dtype=torch.float64)
    soft, kept = lrent_soft_labels(logits, thresholds, alpha)
    p, limits = logits.softmax(1), thresholds.view(1, -1, 1, 1)
    power = (p / limits) ** (1 / alpha)
    torch.testing.assert_close(
        soft.double(), power / power.sum(1, keepdim=True), rtol=1e-4, atol=1e-7
    )
    y = soft.double().clamp(min=1e-300)
    cost = (-y * p.log() + alpha * y * y.log()).sum(1)
    gain = -(y * limits.log()).sum(1)
    # Away from equality, where rounding decides.
    clear = (cost - gain).abs() > 1e-5
    assert clear.sum() > 700 and 0.2 < kept.double().mean() < 0.99
    assert torch.equal(kept[clear], (cost < gain)[clear])
    # Looser than the hard rule, never stricter.
    assert kept[(p / limits).amax(1) > 1 + 1e-5].all()


def test_lrent_becomes_hard_as_alpha_falls() -> None:
    torch.manual_seed(2)
    logits, thresholds = torch.randn(1, 4, 9, 9), torch.tensor([0.4, 0.5, 0.6, 0.7])
    ratio = logits.softmax(1) / thresholds.view(1, -1, 1, 1)
    soft, kept = lrent_soft_labels(logits, thresholds, 0.001)
    assert (soft.argmax(1) == ratio.argmax(1)).all() and soft.amax(1).mean() > 0.98
    assert torch.equal(kept, ratio.amax(1) > 1)


def test_soft_cross_entropy_of_hard_labels_is_the_plain_one() -> None:
    torch.manual_seed(3)
    logits = torch.randn(2, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 5, (2, 4, 4))
    kept = torch.rand(2, 4, 4) > 0.3
    one_hot = torch.nn.functional.one_hot(labels, 5).permute(0, 3, 1, 2)
    loss = soft_cross_entropy(logits, one_hot, kept)
    ignored = labels.masked_fill(~kept, 255)
    total = torch.nn.functional.cross_entropy(logits, ignored, ignore_index=255, reduction="sum")
    torch.testing.assert_close(loss, total / labels.numel())
    (gradient,) = torch.autograd.grad(loss, logits)
    (expected,) = torch.autograd.grad(total / labels.numel(), logits)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_nothing_waits_for_the_device() -> None:
    # Fake CUDA tensors have no values that a host could look at.
    with FakeTensorMode():
        logits = torch.rand(2, 5, 8, 8, device="cuda")
        labels = torch.randint(0, 5, (2, 8, 8), device="cuda")
        soft, kept = lrent_soft_labels(logits, torch.rand(5, device="cuda"), 0.25)
        loss = mrkld_loss(logits, labels) + soft_cross_entropy(logits, soft, kept)
        assert loss.device.type == "cuda"


def test_arguments_are_checked() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="labels"):
        mrkld_loss(logits, torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="thresholds"):
        lrent_soft_labels(logits, torch.ones(4), 0.25)
    with pytest.raises(ValueError, match="alpha is 0"):
        lrent_soft_labels(logits, torch.ones(3), 0)
    with pytest.raises(ValueError, match="soft labels"):
        soft_cross_entropy(logits, torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))
