"""A training step while other processes are busy, and the time until an error is reported."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "configs/toy/panoptic_gbw.yaml"
POLICY = "OMP_WAIT_POLICY"
BUSY = 3

# Name of a mistake -> command line of train_net.py.
MISTAKES: dict[str, list[str]] = {
    "no such config": ["--config-file", "configs/none.yaml"],
    "no such base": ["--config-file", RECIPE, "--with", "uda/none"],
    "no such data set": ["--config-file", RECIPE, "DATASETS.TRAIN", "('none',)"],
    "missing data": ["--config-file", "configs/synthia_panoptic_gbw.yaml"],
    "no such key": ["--config-file", RECIPE, "NO.SUCH.KEY", "1"],
}

_STEPS = 4
_STEP = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tools")!r}]
from gbw_d2 import passive_waiting
import torch
from benchmarks.recipe import recipe_candidates
torch.set_num_threads(2)
steps, _ = recipe_candidates({RECIPE!r}, [], torch.device("cpu"))
step = list(steps.values())[-1]
step(), step()
cpu, wall = time.process_time(), time.perf_counter()
for _ in range({_STEPS}):
    step()
print((time.process_time() - cpu) / {_STEPS}, (time.perf_counter() - wall) / {_STEPS})
"""


def run_busy(repetitions: int) -> dict[str, dict[str, dict[str, float]]]:
    """Measures a toy step on two threads, alone and while three processes are busy.

    Args:
        repetitions: of each case, in alternation.

    Returns:
        Number of busy processes -> how OpenMP waits -> processor and wall time of a step in ms, and
        the ratio of the processor time to that of passive waiting.
    """
    tables = {}
    for busy in (0, BUSY):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            rows = _steps(repetitions)
        finally:
            for other in others:
                other.kill()
        tables[f"{busy} processes beside"] = rows
    return tables


def _steps(repetitions: int) -> dict[str, dict[str, float]]:
    # With a value that OpenMP does not know it has its default: threads spin for a while.
    policies = {"passive (ours)": "passive", "OpenMP's default": "undefined"}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in policies}
    for _ in range(repetitions):
        for name, value in policies.items():
            environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
            environment[POLICY] = value
            done = subprocess.run(
                [sys.executable, "-c", _STEP],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=True,
            )
            cpu, wall = map(float, done.stdout.split()[-2:])
            times[name].append((cpu, wall))
    rows = {}
    for name, values in times.items():
        cpu, wall = (1000 * statistics.median(column) for column in zip(*values, strict=True))
        rows[name] = {"cpu_ms": cpu, "wall_ms": wall}
    first = rows["passive (ours)"]["cpu_ms"]
    return {name: row | {"cpu_ratio": row["cpu_ms"] / first} for name, row in rows.items()}


def run_startup(repetitions: int) -> dict[str, dict[str, dict[str, float]]]:
    """Measures how long train_net.py takes to report mistakes, and the import of torch.

    Args:
        repetitions: of each command, in alternation.

    Returns:
        One table: mistake -> processor and wall time in ms.
    """
    commands = {"import torch": ["-c", "import torch"]}
    commands |= {name: ["train_net.py", *words] for name, words in MISTAKES.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as empty:
        for _ in range(repetitions):
            for name, words in commands.items():
                times[name].append(_seconds(words, empty))
    rows = {}
    for name, values in times.items():
        cpu, wall = (1000 * statistics.median(column) for column in zip(*values, strict=True))
        rows[name] = {"cpu_ms": cpu, "wall_ms": wall}
    return {"start-up": rows}


def _seconds(words: Sequence[str], datasets: str) -> tuple[float, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": datasets},
        capture_output=True,
        check=False,
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall
