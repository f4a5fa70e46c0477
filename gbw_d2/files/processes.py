"""Worker processes, which end together with the process that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_SECONDS_TO_END = 20


def in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    chunksize: int = 1,
    start: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Runs work in spawned processes; Ctrl-C is handled by this process, which ends them all.

    Args:
        work: a picklable function.
        items: its arguments.
        workers: number of processes.
        chunksize: number of items that a process gets at a time.
        start: called first in each process.

    Returns:
        the results of ``work``, in the order of ``items``.
    """
    # Spawned instead of forked, because this may run inside a training process with threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(start,)
    ) as pool:
        with interrupts_ignored():
            results = pool.map(work, items, chunksize=chunksize)
        yield from results


def run_to_end(command: Sequence[str]) -> int:
    """Runs a command and returns its exit code; Ctrl-C sends it SIGTERM and waits for its end."""
    with interrupts_ignored():
        process = subprocess.Popen(command)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Makes processes that are started within the block ignore Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say so
        return
    kept = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, kept)


def _start_worker(start: Callable[[], None] | None) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    if start is not None:
        start()


def end_with_parent() -> None:
    """Ends this process when its parent process ends; to be run in a separate thread."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
