"""Euclidean projection onto a simplex: GBW's quadratic programme in closed form, and by cvxopt."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def project_to_simplex(values: Tensor, total: float | Tensor) -> Tensor:
    """Projects on {w >= 0, sum w = total}: w = max(values - threshold, 0).

    The maximum is subtracted first, so that differences between values around 1e8 keep their
    precision.

    Args:
        values: (K,) floating point; -inf entries get 0.
        total: the weights' sum, >= 0; a number, or a tensor without axes.

    Returns:
        (K,) weights of the values' dtype and device.

    Raises:
        ValueError: not a vector of floating point, or a negative total.
    """
    _check(values, total)
    return _project(values.double(), total).to(values.dtype)


def project_to_box(
    values: Tensor,
    total: float | Tensor,
    lower: float = 0.0,
    upper: float = math.inf,
    mask: Tensor | None = None,
) -> Tensor:
    """Projects on {lower <= w <= upper, sum w = total} over the entries of ``mask``.

    Without an upper bound this is the simplex projection, shifted by ``lower``. With one, the sum
    of clip(values - t, lower, upper) is piecewise linear in t with breaks at values - lower and
    values - upper; it is evaluated at every break and solved exactly on the piece that holds
    ``total``. Nothing is copied to the host.

    Args:
        values: (K,) floating point.
        total: the sum over the entries of the mask; a number, or a tensor without axes.
        lower: least weight.
        upper: greatest weight; inf for none.
        mask: (K,) bool, the entries that take part; None for all.

    Returns:
        (K,) weights of the values' dtype; 0 outside the mask.

    Raises:
        ValueError: not a vector of floating point, or no such weights exist (checked where
            ``total`` is a number and there is no mask).
    """
    _check(values, total)
    if mask is None:
        mask = torch.ones_like(values, dtype=torch.bool)
        entries = values.numel()
        if not isinstance(total, Tensor) and not entries * lower <= total <= entries * upper:
            raise ValueError(
                f"{entries} weights between {lower} and {upper} cannot have the sum {total}"
            )
    weights = project_entries(values.double(), total, mask.sum(), lower, upper, mask)
    return torch.where(mask, weights, 0.0).to(values.dtype)


def project_entries(
    values: Tensor, total: float | Tensor, size: Tensor, lower: float, upper: float, mask: Tensor
) -> Tensor:
    """Computes :func:`project_to_box` without checks; entries outside the mask are undefined.

    Args:
        values: (K,) float64.
        total: as in ``project_to_box``, like ``lower`` and ``upper``.
        size: the number of the mask's entries, a tensor without axes.
        lower: likewise.
        upper: likewise.
        mask: (K,) bool.
    """
    if upper == math.inf:
        inside = values.masked_fill(~mask, -math.inf)
        return _project(inside, total - lower * size) + lower
    return _project_by_breaks(values, total, lower, upper, mask)


def _check(values: Tensor, total: float | Tensor) -> None:
    if values.ndim != 1 or not values.is_floating_point() or values.numel() == 0:
        raise ValueError(
            f"values have shape {tuple(values.shape)} and dtype {values.dtype}; "
            "expected a vector of floating point"
        )
    if not isinstance(total, Tensor) and not (0 <= total < math.inf):
        raise ValueError(f"the weights' sum is {total}; expected a finite number >= 0")


def _project(values: Tensor, total: float | Tensor) -> Tensor:
    ordered = values.sort(descending=True).values
    top = ordered[0]
    shifted, ordered = values - top, ordered - top
    rank = torch.arange(1, values.numel() + 1, dtype=values.dtype, device=values.device)
    thresholds = (ordered.cumsum(0) - total) / rank
    active = (ordered > thresholds).sum().clamp(min=1)
    # gather, because indexing with a device tensor copies the index to the host.
    return (shifted - thresholds.gather(0, active.reshape(1) - 1)).clamp(min=0)


def _project_by_breaks(
    values: Tensor, total: float | Tensor, lower: float, upper: float, mask: Tensor
) -> Tensor:
    top = values.masked_fill(~mask, -math.inf).max()
    # Entries outside the mask take the maximum's value, which adds no new break.
    shifted = torch.where(mask, values - top, torch.zeros_like(values))
    breaks = torch.cat([shifted - lower, shifted - upper]).sort().values
    clipped = (shifted.unsqueeze(0) - breaks.unsqueeze(1)).clamp(lower, upper)
    sums = (clipped * mask).sum(1)
    left = ((sums >= total).sum().clamp(min=1) - 1).reshape(1)
    right = (left + 1).clamp(max=breaks.numel() - 1)
    start = breaks.gather(0, left)
    middle = shifted - (start + breaks.gather(0, right)) / 2
    free = (mask & (middle > lower) & (middle < upper)).sum().clamp(min=1)
    threshold = start + (sums.gather(0, left) - total) / free
    return (shifted - threshold).clamp(lower, upper)


def solve_gbw_cvxopt(
    values: Tensor, total: float, lower: float = 0.0, upper: float = math.inf
) -> Tensor:
    """Solves the same programme on the host with cvxopt's interior-point method, as a reference.

    min 1/2 |w|^2 - values . w  s.t.  lower <= w <= upper, sum w = total, to 1e-10.

    Args:
        values: (K,) floating point.
        total: the weights' sum.
        lower: least weight.
        upper: greatest weight; inf for none.

    Returns:
        (K,) weights of the values' dtype, on their device.

    Raises:
        ValueError: cvxopt is not installed, or it found no optimum.
    """
    _check(values, total)
    try:
        from cvxopt import matrix, solvers, sparse, spdiag
    except ImportError as error:
        raise ValueError(
            "QP_SOLVER is 'cvxopt', which is not installed: `pip install cvxopt`, "
            "or use the default 'closed_form', which needs nothing and gives the same weights"
        ) from error
    size = values.numel()
    shifted = (values - values.max()).double().cpu().tolist()
    identity = spdiag([1.0] * size)
    bounds, limits = [-identity], [-lower] * size
    if upper < math.inf:
        bounds, limits = [-identity, identity], limits + [upper] * size
    answer = solvers.qp(
        identity,
        matrix([-value for value in shifted]),
        sparse(bounds),
        matrix(limits),
        matrix(1.0, (1, size)),
        matrix(float(total)),
        options={"show_progress": False, "abstol": 1e-10, "reltol": 1e-10, "feastol": 1e-10},
    )
    if answer["status"] != "optimal":
        raise ValueError(
            f"cvxopt ended with status '{answer['status']}' for values {values.tolist()}; "
            "use QP_SOLVER: closed_form"
        )
    return torch.tensor(list(answer["x"]), dtype=values.dtype, device=values.device)
