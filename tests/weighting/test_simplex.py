from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gbw_d2.weighting import project_to_box, project_to_simplex, solve_gbw_cvxopt

vectors = st.integers(1, 30).flatmap(
    lambda size: st.tuples(
        st.lists(st.floats(-1, 1, width=32), min_size=size, max_size=size),
        st.sampled_from([1e-8, 1e-3, 1.0, 30.0, 1e4, 1e8]),
    )
)


def test_by_hand():
    # Threshold 0.5 leaves the first two: 2 - 0.5 + 1 - 0.5 = 2.
    weights = project_to_simplex(torch.tensor([2.0, 1.0, 0.0]), 2.0)
    assert weights.tolist() == [1.5, 0.5, 0.0]


def test_box_by_hand():
    # The cap takes 1 of the first, the floor lifts the last to 0.25: the middle one has 0.75 left.
    weights = project_to_box(torch.tensor([9.0, 1.0, -9.0]), 2.0, 0.25, 1.0)
    assert weights.tolist() == [1.0, 0.75, 0.25]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_is_kept_and_total_may_be_zero(dtype):
    values = torch.tensor([1.0, 3.0], dtype=dtype)
    assert project_to_simplex(values, 2.0).dtype == dtype
    assert project_to_simplex(values, 0.0).tolist() == [0.0, 0.0]


@given(vectors)
@settings(max_examples=150, deadline=None)
def test_optimality_conditions(drawn):
    numbers, scale = drawn
    values = torch.tensor(numbers, dtype=torch.float64) * scale
    total = float(len(numbers))
    weights = project_to_simplex(values, total)
    assert weights.min() >= 0
    assert weights.sum().item() == pytest.approx(total, rel=1e-9)
    # KKT: values - weights is one threshold on the support and not above it elsewhere.
    gap = values - values.max() - weights
    threshold = gap[weights > 0].min()
    tolerance = 1e-12 * max(1.0, scale)
    assert (gap[weights > 0] - threshold).max() <= tolerance
    assert (gap <= threshold + tolerance).all()


def test_float32_of_1e8_keeps_its_digits():
    values = torch.tensor([1e8, 1e8 - 8, -1e8])
    weights = project_to_simplex(values, 10.0)
    assert weights.tolist() == [9.0, 1.0, 0.0]


@given(vectors, st.floats(0, 0.9), st.floats(1.05, 4))
@settings(max_examples=150, deadline=None)
def test_box_optimality_conditions(drawn, lower, upper):
    numbers, scale = drawn
    values = torch.tensor(numbers, dtype=torch.float64) * scale
    total = float(len(numbers))
    weights = project_to_box(values, total, lower, upper)
    assert weights.min() >= lower
    assert weights.max() <= upper
    tolerance = 1e-12 * max(1.0, scale)
    assert weights.sum().item() == pytest.approx(total, rel=1e-9, abs=30 * tolerance)
    # A class that could give may not be worth less than one that could take.
    gap = values - values.max() - weights
    able_to_give, able_to_take = weights > lower, weights < upper
    if able_to_give.any() and able_to_take.any():
        assert gap[able_to_take].max() <= gap[able_to_give].min() + 4 * tolerance


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 5.0, 30.0])
@pytest.mark.parametrize(
    ("lower", "upper"), [(0.0, math.inf), (0.5, math.inf), (0.0, 1.7), (0.4, 1.3)]
)
def test_against_cvxopt(scale, lower, upper):
    generator = torch.Generator().manual_seed(3)
    values = scale * torch.rand(19, dtype=torch.float64, generator=generator)
    expected = solve_gbw_cvxopt(values, 19.0, lower, upper)
    torch.testing.assert_close(
        project_to_box(values, 19.0, lower, upper), expected, atol=2e-5, rtol=0
    )
    if lower == 0 and upper == math.inf:
        torch.testing.assert_close(project_to_simplex(values, 19.0), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("upper", [math.inf, 1.5])
def test_mask_equals_the_smaller_problem(upper):
    values = torch.tensor([5.0, 0.3, 100.0, 0.9, -50.0])
    mask = torch.tensor([True, True, False, True, False])
    masked = project_to_box(values, mask.sum(), 0.2, upper, mask)
    small = project_to_box(values[mask], 3.0, 0.2, upper)
    torch.testing.assert_close(masked[mask], small)
    assert masked[~mask].tolist() == [0.0, 0.0]


def test_errors():
    with pytest.raises(ValueError, match=r"cannot have the sum 3\.0"):
        project_to_box(torch.ones(2), 3.0, 0.0, 1.2)
    with pytest.raises(ValueError, match="vector"):
        project_to_simplex(torch.ones(2, 2), 1.0)
    with pytest.raises(ValueError, match="floating point"):
        project_to_simplex(torch.ones(2, dtype=torch.long), 1.0)
    with pytest.raises(ValueError, match=">= 0"):
        project_to_simplex(torch.ones(2), -1.0)


def test_missing_cvxopt_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxopt", None)
    with pytest.raises(ValueError, match="not installed"):
        solve_gbw_cvxopt(torch.ones(3), 3.0)
