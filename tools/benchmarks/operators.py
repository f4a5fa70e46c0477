"""Which operators of torch a recipe's training step spends its time in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from benchmarks.recipe import recipe_candidates

# Lines of the table.
MOST = 12


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
        one table: operator -> percent of the step, ms and calls per step, the largest first. The
        time is the operator's own, on the device where it computes.
    """
    steps, what = recipe_candidates(config_file, overrides, device)
    step = list(steps.values())[-1]
    step()
    step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(repetitions):
            step()
    own = f"self_{'device' if device.type == 'cuda' else 'cpu'}_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, own))
    whole = sum(getattr(event, own) for event in events)
    rows = {
        event.key.removeprefix("aten::"): {
            "share": 100 * getattr(event, own) / whole,
            "ms": getattr(event, own) / 1000 / repetitions,
            "calls": event.count / repetitions,
        }
        for event in events[:MOST]
    }
    return {f"operators of {what}": rows}
