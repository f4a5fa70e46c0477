"""Times and peak memory of candidates, as ratios to the first within the same repetition."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping

import torch

Candidate = Callable[[], None]

_CPU = torch.profiler.ProfilerActivity.CPU


def measure_seconds(
    candidates: Mapping[str, Candidate], repetitions: int, device: torch.device
) -> dict[str, list[float]]:
    """Times every candidate once per repetition, in an order that turns."""
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(-1, repetitions):
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            _wait(device)
            start = time.perf_counter()
            candidates[name]()
            _wait(device)
            if repetition >= 0:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_extra_mb(candidate: Candidate, device: torch.device) -> float:
    """Measures how far memory rises above its level before the call, in MB."""
    candidate()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        candidate()
        _wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # The allocator's own record: the process's resident memory lags behind and keeps freed pages.
    with torch.profiler.profile(activities=[_CPU], profile_memory=True) as profiler:
        candidate()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate((bytes_ for _, bytes_ in changes), initial=0)) / 2**20


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(
    candidates: Mapping[str, Candidate], repetitions: int, device: torch.device, memory: bool
) -> dict[str, dict[str, float]]:
    """Measures all candidates; ratios are to the first."""
    seconds = measure_seconds(candidates, repetitions, device)
    reference = next(iter(candidates))
    peaks = {n: peak_extra_mb(c, device) for n, c in candidates.items()} if memory else {}
    rows = {}
    for name, values in seconds.items():
        ratios = [v / r for v, r in zip(values, seconds[reference], strict=True)]
        rows[name] = {"ms": 1000 * statistics.median(values), "ratio": statistics.median(ratios)}
        if memory:
            # A page is the least that can be seen: small shapes may rise by none.
            ratio = peaks[name] / max(peaks[reference], 4 / 1024)
            rows[name] |= {"peak_mb": peaks[name], "peak_ratio": ratio}
    return rows
