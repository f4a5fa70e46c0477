"""The quadratic programme of GBW, which turns a measure of each class's gradient into weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gbw_d2.weighting.pixels import may_look
from gbw_d2.weighting.simplex import project_entries, solve_gbw_cvxopt


def _released(measure: Tensor, present: Tensor, size: Tensor, power: float) -> Tensor:
    return measure.square()


def _relative(measure: Tensor, present: Tensor, size: Tensor, power: float) -> Tensor:
    # The measure is divided by its maximum first, so that powers neither overflow nor vanish.
    top = measure.max()
    relative = torch.where(top == 0, 1.0, measure / top).pow(power)
    mean = (relative * present).sum() / size
    return relative / mean


# The vector to project, times 2 lambda, as a function of the measure (0 outside the budget), the
# budget's classes and their number, and the power.
SCALES: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "released": _released,
    "relative": _relative,
}
SOLVERS = ("closed_form", "cvxopt")


def gbw_weights(
    norms: Tensor,
    present: Tensor | None = None,
    scale: str = "relative",
    lam: float = 0.5,
    power: float = 1.0,
    min_weight: float = 0.0,
    max_weight: float = math.inf,
    solver: str = "closed_form",
) -> Tensor:
    """Solves the GBW programme (docs/equations.md 1 and 2).

    - scale "released": w = projection of g^2 / (2 lam); ``power`` has no effect.
    - scale "relative": w = projection of u / (2 lam), u_k = g_k^power / mean over the budget; if
      all measures are 0, the weights are uniform.

    The weights of the classes in the budget lie in [min_weight, max_weight] and sum to the number
    of these classes; every other class gets 1, so the sum over all K classes is K.

    Args:
        norms: (K,) the measure g_k >= 0 of each class: the norms of the logit channels' gradients,
            as in the released code, or any other.
        present: (K,) bool, the classes that share the budget; None for all K.
        scale: "released" or "relative".
        lam: lambda > 0, in units of the scale; inf gives uniform weights.
        power: exponent > 0 of the relative scale.
        min_weight: 0..1.
        max_weight: >= 1; inf for no cap.
        solver: "closed_form", or "cvxopt", which copies to the host.

    Returns:
        (K,) float32, detached, on the measure's device. A measure that is not finite gives NaN
        weights on a GPU.

    Raises:
        ValueError: an argument out of range; on the CPU also a measure that is NaN, inf or
            negative.
    """
    if scale not in SCALES:
        raise ValueError(f"weighting scale is '{scale}'; expected one of {', '.join(SCALES)}")
    check_programme(lam, power, min_weight, max_weight, solver)
    if norms.ndim != 1:
        raise ValueError(f"norms have shape {tuple(norms.shape)}; expected (K,)")
    measure = norms.detach().double()
    budget = torch.ones_like(norms, dtype=torch.bool) if present is None else present.bool()
    if budget.shape != norms.shape:
        raise ValueError(f"present has shape {tuple(budget.shape)}, norms {tuple(norms.shape)}")
    measure, size = measure.masked_fill(~budget, 0), budget.sum()
    if may_look(measure):
        # Both are NaN where any is.
        low, high = torch.aminmax(measure)
        if not (float(low) >= 0 and float(high) < math.inf):
            raise ValueError(
                f"the classes' measure is {norms.tolist()}; expected finite numbers >= 0. "
                "NaN or inf here comes from the logits or the features: the training diverged"
            )
    point = SCALES[scale](measure, budget, size, power) / (2 * lam)
    if solver == "cvxopt":
        weights = torch.ones_like(point)
        if int(size):
            weights[budget] = solve_gbw_cvxopt(point[budget], int(size), min_weight, max_weight)
        return weights.clamp(min_weight, max_weight).float()
    weights = project_entries(point, size, size, min_weight, max_weight, budget)
    return torch.where(budget, weights, 1.0).float()


def check_programme(
    lam: float, power: float, min_weight: float, max_weight: float, solver: str
) -> None:
    """Checks the programme's parameters.

    Raises:
        ValueError: the first one that is out of range.
    """
    if solver not in SOLVERS:
        raise ValueError(f"QP solver is '{solver}'; expected one of {', '.join(SOLVERS)}")
    if not lam > 0:
        raise ValueError(f"lambda is {lam}; expected a number > 0")
    if not 0 < power < math.inf:
        raise ValueError(f"power is {power}; expected a finite number > 0")
    if not 0 <= min_weight <= 1:
        raise ValueError(f"min_weight is {min_weight}; expected 0..1, since the mean weight is 1")
    if not max_weight >= 1:
        raise ValueError(f"max_weight is {max_weight}; expected >= 1, since the mean weight is 1")
