"""The cost of each encoder base: parameters, memory, speed of a training step, adapter.

Each encoder is trained with DAFormer's head on one labelled crop of 512 x 512. Its weights are
random, so nothing is downloaded.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from benchmarks.operators import named
from benchmarks.recipe import Report, TrainingStep, recipe_candidates
from torch.profiler import ProfilerActivity, profile

from gbw_d2.composition import known_choices

CONFIG = "configs/gta5_semantic_source_only.yaml"
CHOICES = ("models/semantic_daformer", "weighting/none")
KEYS = (
    *("INPUT.CROP_SIZE", "(512, 512)", "SOLVER.IMS_PER_BATCH", "1"),
    *("MODEL.TIMM.PRETRAINED", "False", "MODEL.WEIGHTS", ""),
)


def run_encoders(
    report: Report, repetitions: int, device: torch.device, names: Sequence[str] | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """Measures a training step on each encoder base.

    - ``encoder_m`` and ``adapter_m``: millions of parameters of the encoder, and of the layers
      between it and the heads.
    - ``held_mb``: memory of the network and the optimiser's state; ``peak_mb``: the largest memory.
    - ``images_per_s``: images per second; on the CPU per second of processor time, which with one
      thread is the wall time on an idle machine.
    - ``adapter_share``: share of the adapter in the forward pass of the backbone, per cent, by the
      profiler.

    Args:
        report: that of tools/benchmark.py, used for the memory.
        repetitions: steps that are timed; the median is returned.
        device: where they run.
        names: of encoder bases; None for all.
    """
    rows = {}
    for name in known_choices()["encoders"] if names is None else names:
        step = encoder_step(name, device)
        measured = report({name: step}, 1, device, True)[name]
        seconds = sorted(_seconds(step, device) for _ in range(repetitions))
        backbone = step.model.backbone
        adapters = getattr(backbone, "adapters", frozenset())
        sizes = {key: value.numel() / 1e6 for key, value in backbone.named_parameters()}
        rows[name] = {
            "encoder_m": sum(size for key, size in sizes.items() if key not in adapters),
            "adapter_m": sum(size for key, size in sizes.items() if key in adapters),
            "held_mb": step.held_mb(),
            "peak_mb": step.held_mb() + measured["peak_mb"],
            "images_per_s": 1 / seconds[len(seconds) // 2],
            "adapter_share": 100 * adapter_share(backbone, step.source_images(), device),
        }
    where = "" if device.type == "cuda" else "; not measured on a GPU"
    return {f"training step on 1 image of 512x512 under DAFormer's head, float32{where}": rows}


def encoder_step(name: str, device: torch.device) -> TrainingStep:
    """Builds the training step of one encoder base."""
    steps, _ = recipe_candidates(CONFIG, [f"encoders/{name}", *CHOICES, *KEYS], device)
    return steps["none"]


def adapter_share(backbone: Any, images: torch.Tensor, device: torch.device) -> float:
    """Returns the share of a forward pass of the backbone outside its encoder, 0..1."""
    encoder = getattr(backbone, "encoder", None)
    if encoder is None:
        return 0.0
    whole = named(backbone.forward, "backbone")
    encoder.forward_intermediates = named(encoder.forward_intermediates, "encoder")
    try:
        whole(images)
        with profile(activities=_activities(device)) as profiler:
            whole(images)
    finally:
        # Removes the instance's attribute, which hides the class's method.
        del encoder.forward_intermediates
    kind = "device" if device.type == "cuda" else "cpu"
    times = {e.key: getattr(e, f"{kind}_time_total") for e in profiler.key_averages()}
    return 1 - times["encoder"] / times["backbone"]


def _activities(device: torch.device) -> list[ProfilerActivity]:
    gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    return [ProfilerActivity.CPU, *gpu]


def _seconds(step: TrainingStep, device: torch.device) -> float:
    clock = time.process_time
    if device.type == "cuda":
        clock = time.perf_counter
        torch.cuda.synchronize(device)
    start = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start
