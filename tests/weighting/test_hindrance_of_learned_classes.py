"""A known weakness, kept visible: the hindrance of a class grows as the class is learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gbw_d2.weighting import class_hindrance, gbw_weights

# As in the scheme "gbw_hindrance".
GBW = {"scale": "relative", "lam": 1.0, "power": 0.5, "min_weight": 0.5}


def ratios(margin: float) -> tuple[Tensor, Tensor]:
    """Measures three classes on one shared feature; class 2 is known with the given margin.

    The pixels of classes 0 and 1 stay undecided, so their gradients push class 2 down.

    Returns:
        r_c and 1 - p at the label of class 2.
    """
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10).view(1, 1, 100)
    features = torch.ones(1, 1, 1, 100)
    logits = torch.zeros(1, 3, 1, 100)
    logits[:, 2, :, 90:] = margin
    ratio, _ = class_hindrance(features, logits, labels)
    return ratio, 1 - logits.softmax(1)[0, 2, 0, 90]


def test_by_hand() -> None:
    # With a = 1 - p: A_2 = a (1/2, 1/2, -1), A_0 = (-2, 1, 1) / 3, A_1 = (1, -2, 1) / 3, so
    # <A_2, A_2> = 3/2 a^2 and <A_2, A_0> = <A_2, A_1> = -a / 2.
    ratio, error = ratios(3.0)
    own = 0.1 * 1.5 * error**2
    others = (0.6 + 0.3) * error / 2
    assert ratio[2].item() == pytest.approx((others / own).item(), rel=1e-5)


def test_inverse_to_the_gradient_left() -> None:
    (young, error_young), (learned, error_learned) = ratios(0.0), ratios(6.0)
    assert error_learned < error_young / 100
    growth = (learned[2] / young[2]).item()
    assert growth == pytest.approx((error_young / error_learned).item(), rel=1e-4)


def test_the_learned_class_takes_the_weight() -> None:
    weights = torch.stack([gbw_weights(ratios(m)[0], **GBW) for m in (0.0, 2.0, 4.0, 6.0)])
    assert (weights[1:, 2] > weights[:-1, 2]).all()
    # Power 1/2, lambda 1 and the floor bound it: w <= 1 + (3 - 1) / 2.
    assert weights[-1, 2] < 2
