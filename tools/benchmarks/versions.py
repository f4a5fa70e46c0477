"""A recipe's training step in this checkout, compared with another checkout.

Each checkout has a process of its own, which runs a step when the parent requests one; the parent
alternates between them. `python versions.py CHECKOUT CONFIG [KEY VALUE ...]` is such a process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# The losses of this many first steps are compared.
_COMPARED = 1


class _Version:
    """A process that runs steps of a checkout.

    Args:
        checkout: folder of the project.
        config_file: path in it.
        overrides: ``KEY VALUE ...``.
    """

    def __init__(self, checkout: Path, config_file: str, overrides: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(checkout), config_file, *overrides],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, what: str) -> Any:
        """Sends one word and waits for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(answer)


def run_versions(
    repetitions: int, config_file: str, overrides: Sequence[str], beside: Path
) -> dict[str, Any]:
    """Measures a recipe's step in this checkout and in ``beside``, which comes first.

    Args:
        repetitions: steps of each checkout, in alternation.
        config_file: of the recipe, a path in either checkout.
        overrides: ``KEY VALUE ...``.
        beside: another checkout of this project.

    Returns:
        One table: processor and wall time of a step in ms, their ratios to the first (medians over
        pairs of successive steps), images per second, the largest memory that torch uses in MB and
        its ratio, and the largest relative difference of the first steps' losses.
    """
    names = {"the other one": beside.resolve(), "this one": ROOT}
    versions = {name: _Version(path, config_file, overrides) for name, path in names.items()}
    try:
        images = {name: version.ask("images") for name, version in versions.items()}
        losses = {
            name: [version.ask("losses") for _ in range(_COMPARED)]
            for name, version in versions.items()
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in versions}
        for number in range(repetitions):
            for name in sorted(versions, reverse=bool(number % 2)):
                times[name].append(tuple(versions[name].ask("step")))
        peaks = {name: version.ask("peak") for name, version in versions.items()}
    finally:
        for version in versions.values():
            version.process.kill()
    first = next(iter(versions))
    rows = {}
    for name, values in times.items():
        cpu, wall = (1000 * statistics.median(column) for column in zip(*values, strict=True))
        pairs = list(zip(values, times[first], strict=True))
        rows[name] = {
            "cpu_ms": cpu,
            "cpu_ratio": statistics.median(own[0] / other[0] for own, other in pairs),
            "wall_ms": wall,
            "wall_ratio": statistics.median(own[1] / other[1] for own, other in pairs),
            "images_per_s": 1000 * images[name] / wall,
            "peak_mb": peaks[name],
            "peak_ratio": peaks[name] / peaks[first],
            "loss_error": _largest_difference(losses[name], losses[first]),
        }
    return {f"{Path(config_file).stem} in two versions": rows}


def _largest_difference(some: list[dict[str, float]], others: list[dict[str, float]]) -> float:
    """Compares the losses that both versions have, because the names of some have changed."""
    found = [
        abs(ours[key] - theirs[key]) / max(abs(theirs[key]), 1e-12)
        for ours, theirs in zip(some, others, strict=True)
        for key in ours.keys() & theirs.keys()
    ]
    return max(found) if found else float("nan")


def _serve(checkout: str, config_file: str, overrides: list[str]) -> None:
    """Serves the requests on standard input, one per line, with one line of JSON each."""
    # Otherwise the modules beside this file would be imported instead of the checkout's.
    sys.path[:] = [checkout, f"{checkout}/tools", *sys.path[1:]]
    answers, sys.stdout = sys.stdout, sys.stderr
    import torch
    from benchmark import peak_extra_mb
    from benchmarks.recipe import recipe_candidates

    device = torch.device("cpu")
    steps, _ = recipe_candidates(config_file, overrides, device)
    step = list(steps.values())[-1]
    steps.clear()
    for line in sys.stdin:
        match line.strip():
            case "images":
                answer: Any = sum(step.images)
            case "losses":
                answer = _losses(step)
            case "peak":
                answer = step.held_mb() + peak_extra_mb(step, device)
            case _:
                cpu, wall = time.process_time(), time.perf_counter()
                step()
                answer = (time.process_time() - cpu, time.perf_counter() - wall)
        print(json.dumps(answer), file=answers, flush=True)


def _losses(step: Any) -> dict[str, float]:
    """Runs a step and returns each loss by its name."""
    from torch import Tensor

    found: dict[str, float] = {}
    yields = step.strategy.training_losses

    def kept(*arguments: Any, **named: Any) -> Any:
        for part in yields(*arguments, **named):
            for key, value in part.items():
                found[key] = float(value.detach() if isinstance(value, Tensor) else value)
            yield part

    step.strategy.training_losses = kept
    try:
        step()
    finally:
        step.strategy.training_losses = yields
    return found


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], sys.argv[3:])
