from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from gbw_d2.weighting import gbw_weights, logit_gradient_norms


def released_weights(logits, labels, lam):
    """The release as its description says: autograd, then the quadratic programme in cvxopt."""
    from cvxopt import matrix, solvers

    classes = logits.shape[1]
    leaf = logits.detach().double().requires_grad_()
    log_p = F.log_softmax(leaf, 1)
    losses = []
    for c in range(classes):
        member = labels == c
        losses.append(-log_p[:, c][member].sum() / (member.sum() + 1))
    torch.stack(losses).sum().backward()
    squared = leaf.grad.square().sum((0, 2, 3))
    answer = solvers.qp(
        matrix((2 * lam * torch.eye(classes, dtype=torch.float64)).numpy()),
        matrix((-(squared + lam)).numpy()),
        matrix((-torch.eye(classes, dtype=torch.float64)).numpy()),
        matrix(0.0, (classes, 1)),
        matrix(1.0, (1, classes)),
        matrix(float(classes)),
        options={"show_progress": False, "abstol": 1e-11, "reltol": 1e-11, "feastol": 1e-11},
    )
    return torch.tensor(list(answer["x"]), dtype=torch.float64)


@pytest.mark.parametrize("lam", [1.0, 0.1, 1e-2, 1e-3])
def test_released_scale_is_the_release(lam):
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 6, 9, 8, generator=generator) * 3
    labels = torch.randint(0, 5, (2, 9, 8), generator=generator)
    labels[0, :3] = 255
    weights = gbw_weights(logit_gradient_norms(logits, labels), scale="released", lam=lam)
    expected = released_weights(logits, labels, lam)
    assert (expected - 1).abs().max() > 1e-3
    torch.testing.assert_close(weights.double(), expected, atol=1e-4, rtol=0)


def test_relative_scale_by_hand():
    # u = g / mean g = (0.5, 1, 1.5); lam 1 halves the distance to 1; lam 0.5 is u itself.
    norms = torch.tensor([1.0, 2.0, 3.0])
    assert gbw_weights(norms, lam=1.0).tolist() == [0.75, 1.0, 1.25]
    assert gbw_weights(norms).tolist() == [0.5, 1.0, 1.5]


def test_power_two_is_the_released_programme_at_a_relative_lambda():
    norms = torch.rand(19, generator=torch.Generator().manual_seed(0)) * 1e-2
    lam = 0.2
    relative = gbw_weights(norms, power=2.0, lam=lam)
    released = gbw_weights(norms, scale="released", lam=lam * norms.square().mean().item())
    torch.testing.assert_close(relative, released)
    assert relative.min() == 0  # so that the clipped case is covered


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e8])
def test_relative_scale_ignores_the_size_of_the_gradients(scale):
    norms = torch.tensor([0.1, 0.4, 2.0, 0.7])
    torch.testing.assert_close(
        gbw_weights(norms * scale, power=2.0, lam=0.3), gbw_weights(norms, power=2.0, lam=0.3)
    )


def test_classes_outside_the_budget_weigh_one():
    norms = torch.tensor([1.0, 50.0, 3.0, 7.0])
    present = torch.tensor([True, False, True, False])
    weights = gbw_weights(norms, present)
    assert weights.tolist() == [0.5, 1.0, 1.5, 1.0]
    assert gbw_weights(norms, torch.zeros(4, dtype=torch.bool)).tolist() == [1.0] * 4
    assert gbw_weights(norms, torch.zeros(4, dtype=torch.bool), max_weight=2.0).tolist() == [1] * 4


@pytest.mark.parametrize("norms", [torch.zeros(5), torch.full((5,), 1e-30), torch.full((5,), 1e30)])
@pytest.mark.parametrize("scale", ["relative", "released"])
def test_equal_norms_give_uniform_weights(norms, scale):
    torch.testing.assert_close(gbw_weights(norms, scale=scale), torch.ones(5))


def test_infinite_lambda_is_uniform_and_small_lambda_takes_the_largest():
    norms = torch.tensor([1.0, 2.0, 3.0])
    assert gbw_weights(norms, lam=math.inf).tolist() == [1.0] * 3
    assert gbw_weights(norms, lam=1e-9).tolist() == [0.0, 0.0, 3.0]


def test_bounds():
    norms = torch.tensor([0.0, 0.1, 0.2, 9.0])
    weights = gbw_weights(norms, lam=0.01, min_weight=0.3, max_weight=2.0)
    assert weights.min().item() == pytest.approx(0.3)
    assert weights.max() == 2.0
    assert weights.sum().item() == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize("bounds", [(0.0, math.inf), (0.5, math.inf), (0.2, 1.6)])
@pytest.mark.parametrize("lam", [0.5, 0.05])
def test_solvers_agree(bounds, lam):
    norms = torch.rand(19, generator=torch.Generator().manual_seed(1))
    present = norms > 0.2
    args = {"lam": lam, "min_weight": bounds[0], "max_weight": bounds[1]}
    closed = gbw_weights(norms, present, **args)
    reference = gbw_weights(norms, present, solver="cvxopt", **args)
    torch.testing.assert_close(closed, reference, atol=1e-4, rtol=0)
    assert not torch.equal(closed, torch.ones(19))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_unusable_norms_raise(value):
    with pytest.raises(ValueError, match="finite numbers >= 0"):
        gbw_weights(torch.tensor([1.0, value]))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"scale": "absolute"}, "released, relative"),
        ({"lam": 0.0}, "lambda"),
        ({"lam": float("nan")}, "lambda"),
        ({"power": 0.0}, "power"),
        ({"min_weight": 1.5}, "min_weight"),
        ({"max_weight": 0.5}, "max_weight"),
        ({"solver": "magic"}, "closed_form, cvxopt"),
    ],
)
def test_arguments_are_checked(argument, message):
    with pytest.raises(ValueError, match=message):
        gbw_weights(torch.ones(3), **argument)
