"""On a device, invalid values set a flag and raise no error, so that nothing waits for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gbw_d2.losses import (
    ClassWeightedCenterLoss,
    ClassWeightedCrossEntropy,
    ClassWeightedOffsetLoss,
    ClassWeightedRoIClassification,
    ClassWeightedRoIMask,
    WeightedLoss,
)
from gbw_d2.weighting import SCHEMES, WeightLog, build_scheme
from gbw_d2.weighting import pixels as pixels_module

K = 4
NONE = {"nonfinite": False, "invalid_labels": False, "source_missing": False}


@pytest.fixture(autouse=True)
def no_device_may_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU counts as a device that the host must not wait for, like a GPU."""
    monkeypatch.setattr(pixels_module, "HOST_DEVICES", ())


def make_scheme(name: str, **settings: Any) -> Any:
    given = {"class_weights": range(1, K + 1)} if name == "fixed" else {}
    return build_scheme(name, K, {**given, **settings}, torch.arange(1.0, K + 1))


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def flags(criterion: WeightedLoss) -> dict[str, bool]:
    return {name: bool(flag) for name, flag in criterion.scheme.flags().items()}


def make_batch() -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    labels = torch.arange(2 * 4 * 6).view(2, 4, 6) % K
    return draw(2, K, 4, 6), labels, (draw(2, 3, 4, 6), draw(2, K, 4, 6))


@pytest.mark.parametrize("name", SCHEMES.names())
def test_labels_that_are_no_class_count_as_ignored(name: str) -> None:
    logits, labels, classifier = make_batch()
    results = []
    for wrong in (255, 77, -3):
        criterion, log = ClassWeightedCrossEntropy(make_scheme(name)), WeightLog()
        assert flags(criterion) == NONE
        given = labels.masked_fill(labels == 1, wrong)
        loss = criterion(logits, given, None, classifier, log=log)
        results.append((loss, log.get("loss", "source").weights))
        assert flags(criterion) == {**NONE, "invalid_labels": wrong != 255}
        # Once set it stays, until the trainer has seen it.
        criterion(logits, labels, None, classifier)
        assert flags(criterion)["invalid_labels"] == (wrong != 255)
    for loss, weights in results[1:]:
        assert torch.equal(loss, results[0][0]) and torch.equal(weights, results[0][1])
    assert torch.isfinite(results[0][0])


@pytest.mark.parametrize("name", SCHEMES.names())
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_and_pixel_weights_that_are_not_finite(name: str, value: float) -> None:
    logits, labels, classifier = make_batch()
    broken, weights = logits.clone(), torch.ones(labels.shape)
    broken[0, 1, 2, 3] = value
    weights[1, 2, 3] = value
    for batch in ((broken, labels, None), (logits, labels, weights)):
        criterion = ClassWeightedCrossEntropy(make_scheme(name))
        criterion(logits, labels, None, classifier)
        assert flags(criterion) == NONE
        leaf = batch[0].clone().requires_grad_()
        criterion(leaf, *batch[1:], classifier).backward()
        criterion(logits, labels, None, classifier)
        assert flags(criterion) == {**NONE, "nonfinite": True}


@pytest.mark.parametrize("name", [n for n in SCHEMES if make_scheme(n).needs_classifier])
def test_features_that_are_not_finite(name: str) -> None:
    logits, labels, (features, low) = make_batch()
    for pair in ((features * float("inf"), low), (features, low * float("nan"))):
        criterion = ClassWeightedCrossEntropy(make_scheme(name))
        criterion(logits, labels, None, pair)
        assert flags(criterion) == {**NONE, "nonfinite": True}


@pytest.mark.parametrize("name", SCHEMES.names())
def test_weights_of_a_source_that_was_not_seen_are_one(name: str) -> None:
    logits, labels, classifier = make_batch()
    criterion, log = ClassWeightedCrossEntropy(make_scheme(name, shaped_by="source")), WeightLog()
    criterion(logits, labels, None, classifier, term="mixed", log=log)
    assert log.get("loss", "mixed").weights.tolist() == [1.0] * K
    # Where other terms are not weighted at all, nothing is missing.
    wanted = criterion.scheme.settings.acts_on == "all"
    assert flags(criterion) == {**NONE, "source_missing": wanted}
    fresh = ClassWeightedCrossEntropy(make_scheme(name, shaped_by="source"))
    for term in ("source", "mixed"):
        fresh(logits, labels, None, classifier, term=term)
    assert flags(fresh) == NONE


CENTER = (ClassWeightedCenterLoss, draw(1, 1, 3, 8), torch.zeros(1, 3, 8))
OFFSET = (ClassWeightedOffsetLoss, draw(1, 2, 3, 8), torch.zeros(1, 2, 3, 8))


@pytest.mark.parametrize(("kind", "prediction", "target"), [CENTER, OFFSET])
@pytest.mark.parametrize("name", ["none", "gbw_norm"])
def test_instance_heads(kind: Any, prediction: Tensor, target: Tensor, name: str) -> None:
    owner, weights = torch.arange(24).view(1, 3, 8) % K, torch.ones(1, 3, 8)
    losses = []
    for wrong in (255, 77):
        criterion = kind(make_scheme(name), range(K), K)
        given = owner.masked_fill(owner == 1, wrong)
        losses.append(criterion(prediction, target, weights, given))
        assert flags(criterion) == {**NONE, "invalid_labels": wrong != 255}
    assert torch.equal(*losses)
    broken = prediction.clone()
    broken[0, 0, 1, 2] = float("nan")
    criterion = kind(make_scheme(name), range(K), K)
    criterion(broken, target, weights, owner)
    assert flags(criterion) == {**NONE, "nonfinite": True}


@pytest.mark.parametrize("name", ["none", "gbw_norm", "gbw"])
def test_roi_heads(name: str) -> None:
    labels, logits, features = torch.tensor([0, 1, 2, 3, K]), draw(5, K + 1), draw(5, 6)
    masks, truth = draw(4, K, 3, 3), torch.ones(4, 3, 3)
    calls = [(ClassWeightedRoIClassification, logits, labels, features)]
    if name != "gbw":
        calls.append((ClassWeightedRoIMask, masks, labels[:4], truth))
    for kind, prediction, ids, last in calls:
        losses = []
        for wrong in (-1, 9):
            criterion = kind(make_scheme(name))
            losses.append(criterion(prediction, ids.masked_fill(ids == 1, wrong), last))
            assert flags(criterion) == {**NONE, "invalid_labels": wrong != -1}
        assert torch.equal(*losses)
        criterion = kind(make_scheme(name))
        criterion(prediction * float("nan"), ids, last)
        assert flags(criterion) == {**NONE, "nonfinite": True}
    if name == "gbw":
        criterion = ClassWeightedRoIClassification(make_scheme(name))
        criterion(logits, labels, features * float("nan"))
        assert flags(criterion) == {**NONE, "nonfinite": True}
