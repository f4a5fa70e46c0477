#!/usr/bin/env python3
"""Measures time and peak memory relative to a reference; writes JSON and prints a table.

    uv run tools/benchmark.py weighting                      # the losses alone
    uv run tools/benchmark.py upsampled                      # loss of low-resolution logits
    uv run tools/benchmark.py step                           # a whole toy training step
    uv run tools/benchmark.py strategies                     # strategies, relative to their parts
    uv run tools/benchmark.py cbst                           # labelling, relative to inference
    uv run tools/benchmark.py loader                         # images per second of the toy recipe
    uv run tools/benchmark.py samples                        # full-size samples, and decoding
    uv run tools/benchmark.py evaluation                     # PQ, relative to panopticapi
    uv run tools/benchmark.py files                          # PQ from files, and decoding
    uv run tools/benchmark.py growth                         # with pixels, classes, segments
    uv run tools/benchmark.py postprocessing                 # relative to Detectron2's
    uv run tools/benchmark.py merging                        # the same for RoI heads
    uv run tools/benchmark.py busy                           # a step during other processes
    uv run tools/benchmark.py startup                        # how soon an error is reported
    uv run tools/benchmark.py encoders                       # each encoder base at 512x512
    uv run tools/benchmark.py mask2former                    # relative to transformers'
    uv run tools/benchmark.py recipe --config-file configs/synthia_panoptic_gbw.yaml  # without data
    uv run tools/benchmark.py operators --config-file configs/toy/panoptic_gbw.yaml  # profile
    uv run tools/benchmark.py rois --config-file configs/toy/panoptic_fpn_gbw.yaml  # a step
    uv run tools/benchmark.py versions --beside CHECKOUT --config-file FILE  # two versions' steps
    uv run tools/benchmark.py weighting --repetitions 21 --out weighting.json

Every repetition runs all candidates in rotating order; a ratio is the median over repetitions of
candidate / reference within the same repetition. Results are only reliable on an idle machine.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gbw_d2 import passive_waiting  # noqa: F401  # isort: skip  (before torch)

import torch
import torch.nn.functional as F
from benchmarks.released import random_batch, released_loss
from benchmarks.toy_step import both_ways, step_candidates, step_loss_candidates, toy_batch
from torch import Tensor

from gbw_d2.commands import finish
from gbw_d2.composition import parse
from gbw_d2.errors import UserError
from gbw_d2.files.atomic import write_atomically
from gbw_d2.losses import ClassWeightedCrossEntropy, GBWCrossEntropyLoss
from gbw_d2.weighting import build_scheme

SHAPES = ((2, 19, 512, 512), (2, 19, 1024, 1024), (1, 150, 512, 512))

Candidate = Callable[[], None]

_CPU = torch.profiler.ProfilerActivity.CPU


def loss_candidates(shape: Sequence[int], device: torch.device) -> dict[str, Candidate]:
    """Makes forward and backward passes of each loss on one tensor; the reference is first."""
    logits, labels = random_batch(shape, device)
    logits.requires_grad_()
    plain = ClassWeightedCrossEntropy(build_scheme("none", shape[1]))
    settings = {"class_weights": [*range(1, shape[1] + 1)], "logit_adjustment": 0.5}
    adjusted = ClassWeightedCrossEntropy(build_scheme("fixed", shape[1], settings))
    gbw = GBWCrossEntropyLoss(shape[1])
    losses: dict[str, Callable[[], Tensor]] = {
        "F.cross_entropy": lambda: F.cross_entropy(logits, labels, ignore_index=255),
        "none": lambda: plain(logits, labels),
        "fixed, logits adjusted": lambda: adjusted(logits, labels),
        "gbw_norm": lambda: gbw(logits, labels),
        "released formula": lambda: released_loss(logits, labels),
    }

    return {name: both_ways(loss, logits) for name, loss in losses.items()}


def measure_seconds(
    candidates: Mapping[str, Candidate],
    repetitions: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times every candidate once per repetition, in an order that rotates."""
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(-1, repetitions):
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            _wait(device)
            start = clock()
            candidates[name]()
            _wait(device)
            if repetition >= 0:  # the first round warms up
                seconds[name].append(clock() - start)
    return seconds


def peak_extra_mb(candidate: Candidate, device: torch.device) -> float:
    """Measures the increase of memory during a call, in MB."""
    candidate()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        candidate()
        _wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # The allocator's record, because a process's resident memory keeps freed pages.
    with torch.profiler.profile(activities=[_CPU], profile_memory=True) as profiler:
        candidate()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate((bytes_ for _, bytes_ in changes), initial=0)) / 2**20


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(
    candidates: Mapping[str, Candidate],
    repetitions: int,
    device: torch.device,
    memory: bool,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, float]]:
    """Measures all candidates; ratios are relative to the first."""
    seconds = measure_seconds(candidates, repetitions, device, clock)
    reference = next(iter(candidates))
    peaks = {n: peak_extra_mb(c, device) for n, c in candidates.items()} if memory else {}
    rows = {}
    for name, values in seconds.items():
        ratios = [v / r for v, r in zip(values, seconds[reference], strict=True)]
        rows[name] = {"ms": 1000 * statistics.median(values), "ratio": statistics.median(ratios)}
        if memory:
            # At least one page, because the memory of small shapes may not increase at all.
            ratio = peaks[name] / max(peaks[reference], 4 / 1024)
            rows[name] |= {"peak_mb": peaks[name], "peak_ratio": ratio}
    return rows


def run_weighting(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Benchmarks the losses at every shape."""
    return {
        "x".join(map(str, shape)): report(
            loss_candidates(shape, device), repetitions, device, memory=True
        )
        for shape in SHAPES
    }


def run_upsampled(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Benchmarks the loss of upsampled logits, and upsampling with ``F.cross_entropy``."""
    from benchmarks import upsampled

    return upsampled.run_upsampled(report, random_batch, repetitions, device)


def run_step(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Benchmarks a whole toy training step; ``share``: percent of it that weighting adds."""
    steps = report(step_candidates(device), repetitions, device, memory=False)
    losses = report(step_loss_candidates(device), repetitions, device, memory=False)
    whole, base = steps["none"]["ms"], losses["none"]["ms"]
    for row in losses.values():
        row["share"] = 100 * (row["ms"] - base) / whole
    return {"toy step": steps, "its semantic loss": losses}


def run_strategies(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Benchmarks a toy training step of each strategy, relative to the sum of its parts."""
    from benchmarks.strategies import NAMES, strategy_candidates

    return {
        name: report(strategy_candidates(name, device, toy_batch), repetitions, device, True)
        for name in NAMES
    }


def run_cbst(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Benchmarks the labelling passes of cbst, relative to inference of the same images."""
    from benchmarks.cbst import CASES, labelling_candidates

    return {
        name: report(labelling_candidates(*case, device), repetitions, device, memory=True)
        for name, case in CASES.items()
    }


def run_loader(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Measures the speed of the toy recipe's loader; compare ``ms`` with that of a step."""
    from benchmarks.loader import loader_speed

    config, key = "toy/panoptic_gbw.yaml", "DATALOADER.NUM_WORKERS"
    rows = {
        f"{workers} workers": loader_speed(config, [key, str(workers)], 10 * repetitions)
        for workers in (0, 1, 2)
    }
    return {"toy loader": rows}


def run_evaluation(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Benchmarks PQ, relative to panopticapi; always on the CPU."""
    from benchmarks import evaluation

    return evaluation.run_evaluation(report, repetitions)


def run_files(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Benchmarks PQ from files, relative to decoding alone; always on the CPU."""
    from benchmarks import pq_files

    return pq_files.run_pq_files(report, repetitions)


def run_samples(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Benchmarks samples of full-size images, relative to the decoding of their files."""
    from benchmarks import full_size

    return full_size.run_full_size(report, repetitions)


def run_growth(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Measures and plots how time grows with the input; always on the CPU."""
    from benchmarks import growth

    return growth.run_growth(measure_seconds, repetitions, Path("output/growth.png"))


def run_postprocessing(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Benchmarks the merging to a panoptic map, relative to Detectron2's."""
    from benchmarks import evaluation

    return evaluation.run_postprocessing(report, repetitions, device)


def run_busy(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Measures a toy step while other processes are busy; always on the CPU."""
    from benchmarks import processes

    return processes.run_busy(repetitions)


def run_startup(repetitions: int, device: torch.device) -> dict[str, Any]:
    """Measures how soon train_net.py reports an error."""
    from benchmarks import processes

    return processes.run_startup(repetitions)


def imported(name: str, *first: Any) -> Callable[..., dict[str, Any]]:
    """Returns ``run_<name>`` of benchmarks/<name>.py, which is imported when it runs."""

    def run(*arguments: Any) -> dict[str, Any]:
        module = importlib.import_module(f"benchmarks.{name}")
        return getattr(module, f"run_{name}")(*first, *arguments)

    return run


def run_versions(
    repetitions: int,
    device: torch.device,
    config_file: str,
    overrides: Sequence[str],
    beside: Path,
) -> dict[str, Any]:
    """Measures a recipe's step here and in another checkout; always on the CPU."""
    from benchmarks import versions

    return versions.run_versions(repetitions, config_file, overrides, beside)


# The benchmarks that need a recipe.
OF_RECIPES = ("recipe", "operators", "rois", "versions")
BENCHMARKS = {
    "weighting": run_weighting,
    "upsampled": run_upsampled,
    "step": run_step,
    "strategies": run_strategies,
    "cbst": run_cbst,
    "loader": run_loader,
    "samples": run_samples,
    "evaluation": run_evaluation,
    "files": run_files,
    "growth": run_growth,
    "postprocessing": run_postprocessing,
    "busy": run_busy,
    "startup": run_startup,
    "encoders": imported("encoders", report),
    "recipe": imported("recipe", report),
    "merging": imported("merging", report),
    "operators": imported("operators"),
    "rois": imported("rois", report),
    "versions": run_versions,
    "mask2former": imported("mask2former", report),
}


def print_rows(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Prints one table."""
    keys = list(next(iter(rows.values())))
    # A long title is on a line of its own.
    first = f"\n{title:20s}" if len(title) <= 20 else f"\n{title}\n{'':20s}"
    print(first + "".join(f"{key:>12s}" for key in keys))
    for name, row in rows.items():
        print(f"  {name:18s}" + "".join(f"{row[key]:12.2f}" for key in keys))


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file; default output/benchmark_<name>.json")
    parser.add_argument("--config-file", help="the recipe that is measured")
    parser.add_argument("--beside", type=Path, help="for versions: another checkout of the project")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of that config")
    try:
        args = parse(parser.parse_intermixed_args, sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        parser.error(str(error))
    is_recipe = args.benchmark in OF_RECIPES
    if bool(args.config_file) != is_recipe or (args.opts and not is_recipe):
        parser.error(
            f"the benchmarks {' and '.join(OF_RECIPES)}, and no other, take --config-file FILE "
            "[--with AXIS/NAME ...] [KEY VALUE ...]"
        )
    if bool(args.beside) != (args.benchmark == "versions"):
        parser.error("versions, and no other, takes --beside CHECKOUT")
    of_config = (args.config_file, args.opts) if is_recipe else ()
    of_config += (args.beside,) if args.beside else ()
    device = torch.device(args.device)

    def work() -> None:
        results = BENCHMARKS[args.benchmark](args.repetitions, device, *of_config)
        for title, rows in results.items():
            print_rows(title, rows)
        on_gpu = device.type == "cuda"
        machine = {
            "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "repetitions": args.repetitions,
        }
        out = args.out or Path("output") / f"benchmark_{args.benchmark}.json"
        write_atomically(out, json.dumps({"machine": machine, "results": results}, indent=2) + "\n")
        print(f"\n{machine}\nwrote {out}")

    return finish(work)


if __name__ == "__main__":
    sys.exit(main())
