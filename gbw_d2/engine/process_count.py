"""Chooses how many processes train on the CPU, before torch is imported."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gbw_d2.catalog.preflight import read_values, split_options
from gbw_d2.composition import split_command_line
from gbw_d2.errors import UserError

OPTION = "--num-processes"
LOADERS = "DATALOADER.NUM_WORKERS"
# Options that choose the number of processes themselves.
_OTHERS = ("--num-gpus", "--num-machines", "--machine-rank", "--dist-url")
# A driver's library, and the functions that start it and count its devices.
_CUDA = ("libcuda.so.1", "cuInit", "cuDeviceGetCount")
_ROCM = Path("/dev/kfd")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def count_processes(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Returns the number of processes for a command line of train_net.py on this machine's CPU.

    Without ``--num-processes`` that is the largest number that the cores allow and that divides the
    batch; a step of N processes is that of one up to rounding (docs/training.md). It is 1 where
    that does not hold or is not known: with a GPU, with batch norms whose statistics are those of a
    batch, where the config leaves the batch open, and for ``--check``.

    Args:
        arguments: without the program's name; their config file can be read.
        environment: ``LOCAL_RANK`` is torchrun's; ``OMP_NUM_THREADS`` the threads of each process.

    Raises:
        UserError: ``--num-processes`` is no number, or more are asked for than can be.
    """
    options, _ = split_options(split_command_line(arguments)[1])
    others = [name for name in _OTHERS if name in options]
    if "LOCAL_RANK" in environment:
        others.append("torchrun")
    values = read_values(arguments)
    if OPTION in options:
        number = _asked(options[OPTION], others, values)
        if "--eval-only" not in options:
            _check_share(number, values)
        return number
    if others or "--check" in options or "--config-file" not in options:
        return 1
    if _uses_gpu(values) or _has_batch_norms(values):
        return 1
    share = _images_to_share(values)
    most = min(share, usable_cores() // _threads(environment))
    return next((number for number in range(most, 1, -1) if share % number == 0), 1)


def _asked(text: str, others: Sequence[str], values: Mapping[str, Any]) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{OPTION} is '{text}'; expected a whole number from 1 on")
    number = int(text)
    if number > 1 and others:
        raise UserError(
            f"{OPTION} {number} and {others[0]} both start processes; leave one of them out"
        )
    if number > 1 and _uses_gpu(values):
        raise UserError(
            f"{OPTION} {number} is for the CPU, and the network would be on a GPU; give "
            "--num-gpus, or MODEL.DEVICE cpu"
        )
    return number


def _check_share(number: int, values: Mapping[str, Any]) -> None:
    """Raises :class:`UserError` before processes are started that no part of a batch is left for.

    A batch that the config leaves open is checked when the config is read.
    """
    share = _images_to_share(values)
    if "SOLVER.IMS_PER_BATCH" in values and share % number:
        most = next(n for n in range(min(number, share), 0, -1) if share % n == 0)
        raise UserError(
            f"{OPTION} {number} does not divide the {share} images that a step takes at once "
            f"(SOLVER.IMS_PER_BATCH / SOLVER.GRADIENT_ACCUMULATION); {most} would"
        )


def with_loading(
    arguments: Sequence[str], number: int, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Lets processes that take all cores load their samples themselves.

    Loaders beside them would take the same cores, and more memory. ``DATALOADER.NUM_WORKERS`` on
    the command line is left as it is.

    Args:
        arguments: of train_net.py, without the program's name.
        number: of processes, 2 or more.
        environment: as for :func:`count_processes`.

    Returns:
        the arguments, with ``DATALOADER.NUM_WORKERS 0`` at their end where no core is left.
    """
    if LOADERS in arguments or number * _threads(environment) < usable_cores():
        return list(arguments)
    return [*arguments, LOADERS, "0"]


def usable_cores() -> int:
    """Returns how many cores this process may use: its affinity, and its container's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max" in it
        return cores


def _threads(environment: Mapping[str, str]) -> int:
    text = environment.get("OMP_NUM_THREADS", "")
    return max(1, int(text)) if text.isdecimal() else 1


def _uses_gpu(values: Mapping[str, Any]) -> bool:
    device = values.get("MODEL.DEVICE", "auto")
    return device != "cpu" and (device != "auto" or _sees_gpu())


def _sees_gpu() -> bool:
    """Asks the driver as torch does, because importing torch takes seconds."""
    library, start, count = _CUDA
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return _ROCM.exists()
    number = ctypes.c_int(0)
    started = getattr(driver, start)(0) == 0
    return started and getattr(driver, count)(ctypes.byref(number)) == 0 and number.value > 0


def _has_batch_norms(values: Mapping[str, Any]) -> bool:
    norms = [str(value) for key, value in values.items() if key.endswith("NORM")]
    return any("BN" in norm and norm != "FrozenBN" for norm in norms)


def _images_to_share(values: Mapping[str, Any]) -> int:
    """Returns the images of a batch that go through the network at once; 1 if unknown."""
    try:
        batch = int(values.get("SOLVER.IMS_PER_BATCH", 1))
        parts = int(values.get("SOLVER.GRADIENT_ACCUMULATION", 1))
    except (TypeError, ValueError):  # reported when the config is read
        return 1
    return batch // parts if parts > 0 and batch > 0 and batch % parts == 0 else 1
