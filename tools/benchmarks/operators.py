"""The shares of torch's operators, and of class weighting, in a recipe's training step."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.recipe import recipe_candidates
from torch.profiler import record_function

from gbw_d2.losses.weighted_loss import WeightedLoss

# Number of rows of the table.
MOST = 12
# Modules in which the losses call the functions that measure classes.
_LOSSES = tuple(f"gbw_d2.losses.{name}" for name in ("cross_entropy", "instance", "query", "roi"))
_STATISTICS = ("class_statistics", "element_statistics")
_MEASURE = "measure_prepared"
_WEIGHTS = "class_weights"


def named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Returns a function whose calls the profiler shows under a name."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        with record_function(name):
            return function(*arguments, **keywords)

    return call


@contextmanager
def weighting_named() -> Iterator[None]:
    """Makes the profiler list the parts of weighting: statistics, measures, weights."""
    with ExitStack() as stack:
        for module in map(importlib.import_module, _LOSSES):
            for name in (*_STATISTICS, _MEASURE):
                if hasattr(module, name):
                    wrapped = named(getattr(module, name), name)
                    stack.enter_context(patch.object(module, name, wrapped))
        wrapped = named(WeightedLoss.class_weights, _WEIGHTS)
        stack.enter_context(patch.object(WeightedLoss, _WEIGHTS, wrapped))
        yield


def run_operators(
    repetitions: int, device: torch.device, config_file: str, overrides: Sequence[str]
) -> dict[str, Any]:
    """Profiles steps of a recipe, without its data.

    Args:
        repetitions: steps that are profiled.
        device: where they run.
        config_file: of the recipe.
        overrides: ``KEY VALUE ...``.

    Returns:
        Two tables with per cent of the step, ms and calls per step. The first has the operators,
        the most expensive first, by their own time on the device on which they run. The second has
        the parts of weighting by the whole time of their calls; these include statistics that an
        unweighted loss also computes.
    """
    steps, what = recipe_candidates(config_file, overrides, device)
    step = list(steps.values())[-1]
    step()
    step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with weighting_named(), torch.profiler.profile(activities=activities) as profiler:
        for _ in range(repetitions):
            step()
    clock = f"{'device' if device.type == 'cuda' else 'cpu'}_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, f"self_{clock}"))
    whole = sum(getattr(event, f"self_{clock}") for event in events)

    def row(event: Any, spent: float) -> dict[str, float]:
        return {
            "share": 100 * spent / whole,
            "ms": spent / 1000 / repetitions,
            "calls": event.count / repetitions,
        }

    operators = {
        event.key.removeprefix("aten::"): row(event, getattr(event, f"self_{clock}"))
        for event in events[:MOST]
    }
    parts = (*_STATISTICS, _MEASURE, _WEIGHTS)
    weighting = {e.key: row(e, getattr(e, clock)) for e in events if e.key in parts}
    total = {key: sum(each[key] for each in weighting.values()) for key in ("share", "ms", "calls")}
    return {f"operators of {what}": operators, "weighting": weighting | {"together": total}}
