"""Tables, CSV files and results.json."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

# protocol name -> class name -> score name -> value (None where undefined)
PerClass = dict[str, dict[str, dict[str, Any]]]

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
RARE_SHARE = 1.0  # per cent of the labelled pixels; the table marks classes below it

_SUMMARY = (
    *("PQ", "SQ", "RQ", "PQ_th", "PQ_st", "PQ_classes"),
    *("mIoU", "recall", "precision", "mIoU_classes", "AP", "AP50", "AP_classes"),
)
_COUNTS = ("PQ_classes", "mIoU_classes", "AP_classes", "TP", "FP", "FN")
_PER_CLASS = ("share", "IoU", "recall", "precision", "PQ", "SQ", "RQ", "TP", "FP", "FN", "AP")


def merge_per_class(*parts: PerClass) -> PerClass:
    """Joins the ``per_class`` of several evaluators into one, row by row."""
    merged: PerClass = {}
    for part in parts:
        for protocol, rows in part.items():
            for name, row in rows.items():
                merged.setdefault(protocol, {}).setdefault(name, {}).update(row)
    return merged


def format_table(
    metrics: Mapping[str, Any], per_class: PerClass, protocol: str | None = None, title: str = ""
) -> str:
    """Writes the scores as plain text.

    Args:
        metrics: flat metrics, each named with its protocol.
        per_class: protocol -> class name -> scores.
        protocol: whose classes are listed one by one; None for the first of ``per_class``.
        title: a first line, such as the test set's name.

    Returns:
        One line per protocol, then one line per class; ``*`` marks rare classes, ``-`` what is
        undefined.

    Raises:
        ValueError: ``per_class`` does not have the protocol.
    """
    names = [c for c in _SUMMARY if any(f"{c}_{p}" in metrics for p in per_class)]
    summary = [[p, *(_cell(metrics.get(f"{c}_{p}"), c) for c in names)] for p in per_class]
    lines = [title] if title else []
    lines += _align([["protocol", *names], *summary])
    shown = next(iter(per_class), None) if protocol is None else protocol
    if shown is None:
        return "\n".join(lines)
    if shown not in per_class:
        raise ValueError(f"no scores under protocol '{shown}' (there are: {', '.join(per_class)})")
    classes = per_class[shown]
    keys = [k for k in _PER_CLASS if any(k in row for row in classes.values())]
    body = []
    for name, row in classes.items():
        body.append([_mark_rare(name, row), *(_cell(row.get(k), k) for k in keys)])
    lines += ["", *_align([[f"class ({shown})", *keys], *body])]
    if any(cells[0].endswith("*") for cells in body):
        lines.append(f"* below {RARE_SHARE:g} % of the labelled pixels")
    return "\n".join(lines)


def _mark_rare(name: str, row: Mapping[str, Any]) -> str:
    share = row.get("share")
    return f"{name} *" if share is not None and share < RARE_SHARE else name


def _cell(value: Any, key: str) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if key in _COUNTS else f"{value:.2f}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [c.rjust(w) for c, w in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return lines


def write_per_class_csv(path: str | Path, per_class: PerClass) -> None:
    """Writes one line per protocol and class; undefined scores are empty cells."""
    write_csv(
        path,
        [
            {"protocol": protocol, "class": name, **row}
            for protocol, rows in per_class.items()
            for name, row in rows.items()
        ],
    )


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as CSV, columns in the order they first appear; None is an empty cell."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_plain(row) for row in rows)
    write_atomically(path, text.getvalue().encode())


def write_results_json(
    path: str | Path,
    metrics: Mapping[str, Any],
    datasets: Mapping[str, Mapping[str, Any]],
    per_class: Mapping[str, Any],
    run: Mapping[str, Any],
) -> None:
    """Writes ``results.json``; what is not finite becomes null.

    Args:
        path: the file, replaced at once when it is complete.
        metrics: flat metrics of the first test set.
        datasets: name -> flat metrics, for every test set.
        per_class: protocol -> class name -> scores, of the first test set.
        run: what :func:`run_info` returned.

    Raises:
        ValueError: ``run`` lacks an entry.
    """
    missing = [key for key in RUN_KEYS if key not in run]
    if missing:
        raise ValueError(f"results.json needs run entries {missing}; run_info() makes them")
    content = {"metrics": metrics, "datasets": datasets, "per_class": per_class, "run": run}
    text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def run_info(
    config: Mapping[str, Any] | str,
    seed: int,
    iterations: int,
    wall_seconds: float,
    device: str | torch.device,
) -> dict[str, Any]:
    """Collects what a result was made with.

    Args:
        config: the whole config, as plain Python or as YAML.
        seed: the run's seed.
        iterations: training iterations done.
        wall_seconds: time since the start, in seconds.
        device: where the network ran; its peak memory is read (on the CPU: of the process).

    Returns:
        The ``run`` entry of results.json; ``git_commit`` is None outside a clone.
    """
    from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)

    import detectron2

    text = config if isinstance(config, str) else json.dumps(_plain(config), sort_keys=True)
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
    """Returns the commit of the clone this package lies in, None where it is not under git."""
    folder = Path(__file__).resolve().parent
    # An installed copy may lie inside somebody else's clone, whose commit would mislead.
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


def _plain(value: Any) -> Any:
    """Turns NumPy scalars and arrays, tuples and non-finite numbers into what JSON can hold."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes a file under a temporary name and renames it; its folder is made where missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
