from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gbw_d2.weighting import ClassStatistics, build_scheme, classifier_measure

PLAIN = {"momentum": 0.0, "min_weight": 0.0, "power": 1.0, "lam": 0.5}


def statistics(counts: list[float], measure: list[float]) -> ClassStatistics:
    pixels = torch.tensor(counts, dtype=torch.float64)
    clear = torch.zeros((), dtype=torch.bool)
    return ClassStatistics(pixels, pixels, clear, clear, torch.tensor(measure), pixels > 0)


def test_a_weight_is_the_inverse_of_the_gradient_share():
    scheme = build_scheme("gbw_balanced", 4, PLAIN)
    # Shares of the pixels 1/2, 1/4, 1/4 and 0, so those of the gradient are as 1/2, 1/4 and 1/8;
    # the last class is not in the batch.
    weights = scheme.weights(statistics([8.0, 4.0, 4.0, 0.0], [1.0, 1.0, 0.5, 0.0]), "source")
    torch.testing.assert_close(weights, torch.tensor([3 / 7, 6 / 7, 12 / 7, 1.0]))
    half = build_scheme("gbw_balanced", 4, {**PLAIN, "power": 0.5})
    weights = half.weights(statistics([8.0, 4.0, 4.0, 0.0], [1.0, 1.0, 0.5, 0.0]), "source")
    roots = torch.tensor([1.0, 2**0.5, 2.0])
    torch.testing.assert_close(weights[:3], roots * 3 / roots.sum())


def test_gradient_shares_of_one_step_are_equal_under_their_weights():
    """Autograd in float64: weights times the gradients of the classes' parts of the loss."""
    torch.manual_seed(0)
    features = torch.randn(1, 5, 6, 8, dtype=torch.float64)
    weight = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (1, 6, 8))
    labels[0, :3] = 0
    logits = torch.einsum("kd,ndhw->nkhw", weight, features)
    measure, _ = classifier_measure("class_gradient", features, logits, labels)
    batch = statistics(torch.bincount(labels.flatten()).tolist(), measure.tolist())
    weights = build_scheme("gbw_balanced", 3, PLAIN).weights(batch, "source")
    losses = F.cross_entropy(logits, labels, reduction="none") / labels.numel()
    parts = [
        weights[c] * torch.autograd.grad(losses[labels == c].sum(), weight, retain_graph=True)[0]
        for c in range(3)
    ]
    sizes = torch.stack([part.norm() for part in parts])
    torch.testing.assert_close(
        sizes / sizes[0], torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=0
    )


def test_a_class_never_seen_and_one_without_a_gradient_do_not_take_the_budget():
    scheme = build_scheme("gbw_balanced", 3, {**PLAIN, "budget": "all"})
    weights = scheme.weights(statistics([8.0, 8.0, 0.0], [1.0, 1.0, 0.0]), "source")
    torch.testing.assert_close(weights, torch.tensor([1.5, 1.5, 0.0]))
    # A thousandth of the largest share is the least that counts.
    weights = scheme.weights(statistics([8.0, 8.0, 0.0], [1.0, 1e-9, 0.0]), "source")
    torch.testing.assert_close(weights, torch.tensor([3.0, 3000.0, 0.0]) / 1001)
    nothing = build_scheme("gbw_balanced", 3, PLAIN)
    assert nothing.weights(statistics([8.0, 8.0, 8.0], [0.0] * 3), "source").tolist() == [1.0] * 3


def test_what_is_confused_weighs_less_than_under_gbw():
    # Equal shares; the second class has four times the gradient.
    batch = statistics([8.0, 8.0], [1.0, 4.0])
    weights = build_scheme("gbw_balanced", 2, PLAIN).weights(batch, "source")
    torch.testing.assert_close(weights, torch.tensor([1.6, 0.4]))
    weights = build_scheme("gbw", 2, PLAIN).weights(batch, "source")
    torch.testing.assert_close(weights, torch.tensor([0.4, 1.6]))


def test_memory_is_restored():
    scheme = build_scheme("gbw_balanced", 2)
    scheme.weights(statistics([8.0, 4.0], [1.0, 2.0]), "source")
    restored = build_scheme("gbw_balanced", 2)
    restored.load_state_dict(scheme.state_dict())
    later = statistics([2.0, 4.0], [3.0, 0.5])
    assert torch.equal(restored.weights(later, "source"), scheme.weights(later, "source"))


def test_a_gradient_that_is_no_number_is_an_error():
    scheme = build_scheme("gbw_balanced", 2, PLAIN)
    with pytest.raises(ValueError, match="nan"):
        scheme.weights(statistics([8.0, 4.0], [1.0, float("nan")]), "source")
