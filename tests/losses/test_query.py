"""Losses of queries: by hand, against torch and autograd, and with class weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gbw_d2.losses import ClassWeightedQueryClassification, ClassWeightedQueryMask
from gbw_d2.weighting import SCHEMES, WeightLog, build_scheme

CLASSES = 4


def make_loss(kind: Any, name: str, classes: int = CLASSES, **overrides: Any) -> Any:
    counts = torch.arange(1.0, classes + 1)
    given = {"class_weights": counts.tolist()} if name == "fixed" else {}
    return kind(build_scheme(name, classes, {**given, **overrides}, counts))


def make_queries(rows: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Class logits, labels (class 3 absent, 4 = no object) and features, float64."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 4, 4])[torch.randint(0, 5, (rows,), generator=generator)]
    logits = 2 * torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return logits, labels, torch.randn(rows, 6, generator=generator, dtype=torch.float64)


def test_plain_classification_is_torch() -> None:
    logits, labels, _ = make_queries()
    weight = torch.tensor([1, 1, 1, 1, 0.1], dtype=torch.float64)
    criterion = make_loss(ClassWeightedQueryClassification, "none")
    expected = F.cross_entropy(logits, labels, weight)
    torch.testing.assert_close(criterion(logits, labels), expected)
    # Three layers with as many rows each: their sum, not their mean.
    three = criterion(logits.repeat(3, 1), labels.repeat(3), predictions=3)
    torch.testing.assert_close(three, 3 * expected)


def test_class_weights_do_not_cancel() -> None:
    # All probabilities 1/3: a query of class 0 (weight 1/2), two of class 1 (3/2), one of nothing.
    logits, labels = torch.zeros(4, 3), torch.tensor([0, 1, 1, 2])
    criterion = make_loss(ClassWeightedQueryClassification, "fixed", 2, class_weights=[1.0, 3.0])
    loss = criterion(logits, labels, no_object=0.2)
    assert loss.item() == pytest.approx(math.log(3) * (0.5 + 3.0 + 0.2) / 3.2)
    # "No object" of an unsure picture counts less, and the divisor stays.
    rows = torch.tensor([1.0, 1.0, 1.0, 0.5])
    loss = criterion(logits, labels, no_object=0.2, row_weights=rows)
    assert loss.item() == pytest.approx(math.log(3) * (0.5 + 3.0 + 0.1) / 3.2)


@pytest.mark.parametrize("name", SCHEMES.names())
def test_every_scheme_weighs_classes(name: str) -> None:
    logits, labels, features = make_queries()
    criterion, log = make_loss(ClassWeightedQueryClassification, name), WeightLog()
    leaf = logits.clone().requires_grad_()
    criterion(leaf, labels, features, log=log).backward()
    entry = log.get("loss", "source")
    assert entry.weights.sum().item() == pytest.approx(CLASSES, rel=1e-5)
    assert entry.counts.tolist() == [(labels == k).sum().item() for k in range(CLASSES)]
    assert leaf.grad.isfinite().all() and leaf.grad.abs().sum() > 0


def test_adjusted_logits_leave_no_object_alone() -> None:
    logits, labels, features = make_queries()
    criterion = make_loss(
        ClassWeightedQueryClassification, "fixed", class_weights=[1, 2, 4, 8], logit_adjustment=1.0
    )
    criterion(logits, labels, features)
    shift = criterion.scheme.logit_shift("source")
    assert shift.abs().max() > 0.1
    weights = torch.cat([criterion.scheme._constant, torch.tensor([0.1])])
    found = criterion(logits, labels, features)
    entropy = F.cross_entropy(logits + F.pad(shift, (0, 1)), labels, reduction="none")
    plain = torch.tensor([1, 1, 1, 1, 0.1])[labels].sum()
    expected = (weights[labels] * entropy).sum() / plain
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def make_masks(rows: int = 6, points: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(rows, points, generator=generator, dtype=torch.float64)
    truth = torch.rand(rows, points, generator=generator, dtype=torch.float64).round()
    return logits, truth, torch.arange(rows) % 3


def reference(logits: Tensor, truth: Tensor) -> Tensor:
    """5 BCE + 5 dice of each mask, as the paper writes it."""
    p = logits.sigmoid()
    entropy = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean(1)
    return 5 * entropy + 5 * (1 - (2 * (p * truth).sum(1) + 1) / (p.sum(1) + truth.sum(1) + 1))


def test_mask_loss_and_its_measure() -> None:
    logits, truth, labels = make_masks()
    criterion = make_loss(ClassWeightedQueryMask, "gbw_norm", lam=1.0)
    importance = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.25, 1.0])
    log, leaf = WeightLog(), logits.clone().requires_grad_()
    loss = criterion(leaf, truth, labels, importance, importance.sum(), log=log)
    entry = log.get("loss", "source")
    each = reference(logits, truth)
    weighed = entry.weights.double()[labels] * importance
    torch.testing.assert_close(loss, (weighed * each).sum() / importance.sum())
    loss.backward()
    # g_c by autograd: of the sum over class c of l_i / (n_c + 1).
    for number in range(3):
        own, other = logits.clone().requires_grad_(), labels == number
        (reference(own, truth)[other].sum() / (other.sum() + 1)).backward()
        assert entry.measure[number].item() == pytest.approx(own.grad.norm().item(), rel=1e-6)
    assert entry.measure[3] == 0 and entry.counts.tolist() == [2, 2, 2, 0]
    assert (entry.weights - 1).abs().max() > 1e-3


def test_the_divisor_is_at_least_one() -> None:
    logits, truth, labels = make_masks()
    criterion = make_loss(ClassWeightedQueryMask, "none")
    small = torch.full((6,), 0.01, dtype=torch.float64)
    loss = criterion(logits, truth, labels, small, small.sum())
    torch.testing.assert_close(loss, 0.01 * reference(logits, truth).sum())


def test_without_a_match_the_loss_is_zero_and_has_a_graph() -> None:
    leaf = torch.zeros(0, 9, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    for name in ("none", "gbw_norm"):
        criterion = make_loss(ClassWeightedQueryMask, name)
        loss = criterion(leaf, torch.zeros(0, 9), none, torch.zeros(0), torch.tensor(0.0))
        assert loss.item() == 0
        loss.backward()


def test_sure_masks_have_finite_losses_and_slopes() -> None:
    logits = torch.tensor([[200.0, -200.0, 200.0], [-200.0, 200.0, -200.0]], requires_grad=True)
    truth = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    criterion = make_loss(ClassWeightedQueryMask, "gbw_norm")
    loss = criterion(logits, truth, torch.tensor([0, 1]), torch.ones(2), torch.tensor(2.0))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
