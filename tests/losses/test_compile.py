"""The losses inside torch.compile give the same value and gradient as eager."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from gbw_d2.losses import GBWCrossEntropyLoss


@pytest.mark.slow
@pytest.mark.parametrize("adjustment", [0.0, 0.5])
@pytest.mark.parametrize("measure", ["norm", "hindrance"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_equals_eager(measure: str, backend: str, adjustment: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 16, 16, requires_grad=True)
    labels = torch.randint(0, 5, (2, 16, 16))
    features = torch.randn(2, 8, 16, 16)
    classifier = (features, F.conv2d(features, torch.randn(5, 8, 1, 1)))
    criterion = GBWCrossEntropyLoss(5, measure=measure, logit_adjustment=adjustment)
    # From the second batch on there is something to adjust by.
    criterion(logits.detach() * 2.0, labels, classifier=classifier)
    start = copy.deepcopy(criterion.state_dict())

    def step(logits: torch.Tensor) -> torch.Tensor:
        return criterion(logits * 2.0, labels, classifier=classifier) * 3.0

    eager = step(logits)
    criterion.load_state_dict(start)
    compiled = torch.compile(step, backend=backend)(logits)
    assert torch.equal(eager, compiled)
    expected = torch.autograd.grad(eager, logits)[0]
    assert torch.equal(torch.autograd.grad(compiled, logits)[0], expected)
