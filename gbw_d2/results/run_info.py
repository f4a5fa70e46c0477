"""Information about how a result was made: config, versions, device, time and memory."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gbw_d2.results.plain import plain

RUN_KEYS = (
    "config",
    "config_hash",
    "seed",
    "iterations",
    "wall_seconds",
    "peak_memory_mb",
    "python",
    "torch",
    "detectron2",
    "git_commit",
    "device",
)


def run_info(
    config: Mapping[str, Any] | str,
    seed: int,
    iterations: int,
    wall_seconds: float,
    device: str | torch.device,
) -> dict[str, Any]:
    """Collects information about how a result was made.

    Args:
        config: the whole config, as plain Python values or as YAML.
        seed: the run's seed.
        iterations: training iterations done.
        wall_seconds: time since the start, in seconds.
        device: the network's device, whose peak memory is read (on the CPU: that of the process).

    Returns:
        The ``run`` entry of results.json; ``git_commit`` is None outside a clone.
    """
    from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)

    import detectron2

    text = config if isinstance(config, str) else json.dumps(plain(config), sort_keys=True)
    return {
        "config": config,
        "config_hash": hashlib.sha256(text.encode()).hexdigest()[:16],
        "seed": seed,
        "iterations": iterations,
        "wall_seconds": round(float(wall_seconds), 3),
        "peak_memory_mb": peak_memory_mb(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        "git_commit": git_commit(),
        "device": _device_name(torch.device(device)),
    }


def peak_memory_mb(device: str | torch.device) -> float:
    """Returns the peak memory in MiB: PyTorch's on CUDA, the process's own on the CPU."""
    if torch.device(device).type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def git_commit() -> str | None:
    """Returns the commit of the clone that contains this package, or None outside git."""
    folder = Path(__file__).resolve().parent
    # An installed copy may be inside another project's clone, whose commit would be misleading.
    tracked = _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
    return None if tracked is None else _git(folder, "rev-parse", "HEAD")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
