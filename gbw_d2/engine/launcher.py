"""Runs a job in several processes on the CPU, and reports once how they ended.

This process does not import torch. It starts the others, waits, and ends all when one fails. A
process that fails sends its error here and waits to be ended: if it ended by itself, the others
would fail too, because they lose the connection to it, and hide the cause. A process that ends
without a report was killed. torchrun would print the traceback of each process instead.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

from gbw_d2.commands import DONE, outcome
from gbw_d2.engine.process_count import OPTION
from gbw_d2.files.processes import end_with_parent, interrupts_ignored

CRASHED = 1
# Environment of the processes, unless the user's own sets these variables. More threads would
# compete for the same cores. Without the other two, glibc returns the memory of each step to the
# system, which clears it again in the next; 32 MiB is the largest threshold that glibc accepts.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
# Between SIGTERM and SIGKILL. A process that waits for another one inside torch handles SIGTERM
# only when that one has ended.
_SECONDS_TO_END = 10
# After a crash, other processes may still turn out to have been killed, and to be its cause.
_SECONDS_TO_SETTLE = 2
# A killed process has to be polled for: its loader's workers keep its pipes open for some seconds.
_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Place:
    """The place of a process in its group.

    Args:
        rank: this process, 0 .. ``number`` - 1.
        number: of processes.
        store: a file that is not there yet, by which they find each other.
    """

    rank: int
    number: int
    store: Path


Work = Callable[[Place], object]


@dataclass(frozen=True)
class End:
    """How a process ended.

    Args:
        code: exit code, as a shell counts it.
        message: to be printed about it.
        reported: False where it was killed.
    """

    code: int
    message: str
    reported: bool = True


@dataclass
class _Child:
    process: BaseProcess
    reports: Connection
    said: Path
    end: End | None = None


def run_in_processes(work: Work, number: int, again: str) -> int:
    """Runs ``work`` in several processes until all have done it or one has failed.

    Args:
        work: what each process runs; must be picklable.
        number: of processes, 2 or more.
        again: how to go on after what stopped them.

    Returns:
        the exit code: 0, or that of the first process that failed, after one message.

    Raises:
        KeyboardInterrupt: Ctrl-C; no process is left.
    """
    os.environ.update(_ENVIRONMENT | os.environ)
    print(f"{number} processes share each batch on the CPU ({OPTION} 1: one process)", flush=True)
    with tempfile.TemporaryDirectory() as folder, _ended_by_sigterm():
        children: list[_Child] = []
        try:
            for rank in range(number):
                place = Place(rank, number, Path(folder) / "store")
                children.append(_start(place, work, again))
            end = _first_failure(children, again)
        finally:
            _end(children)
    if end.message:
        print(end.message, file=sys.stderr)
    return end.code


def _start(place: Place, work: Work, again: str) -> _Child:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    said = place.store.with_name(f"{place.rank}.txt")
    process = context.Process(target=_process, args=(place, said, work, again, theirs))
    # Ctrl-C is handled by this process alone.
    with interrupts_ignored():
        process.start()
    theirs.close()
    return _Child(process, ours, said)


def _first_failure(children: Sequence[_Child], again: str) -> End:
    """Waits until all have done their work or one has failed, and returns how that ended."""
    settled = float("inf")
    while running := [child for child in children if child.end is None]:
        wait([child.reports for child in running], _SECONDS_BETWEEN_LOOKS)
        for rank, child in enumerate(children):
            if child.end is None:
                child.end = _end_of(child, f"process {rank + 1} of {len(children)}", again)
        failed = first_cause([child.end for child in children if child.end is not None])
        if failed is None:
            continue
        settled = min(settled, time.monotonic() + _SECONDS_TO_SETTLE)
        if failed.code != CRASHED or time.monotonic() >= settled:
            return failed
    return first_cause([child.end for child in children if child.end]) or End(DONE, "")


def _end_of(child: _Child, name: str, again: str) -> End | None:
    """Returns how a process ended, None where it has not."""
    # Its report is in the pipe before it ends; so first whether it has ended.
    is_alive = child.process.is_alive()
    try:
        if child.reports.poll():
            code, message = child.reports.recv()
            return End(code, f"{name}:\n{message}" if code == CRASHED else message)
    except (EOFError, OSError):  # cut off in the middle of its report
        child.process.join()
        is_alive = False
    return None if is_alive else _killed(child, name, again)


def first_cause(ends: Sequence[End]) -> End | None:
    """Returns the end that explains the others, None where none has failed.

    A killed process makes others crash, and an error that the user can correct is more helpful
    than a traceback.

    Args:
        ends: of the processes that have ended, by rank.
    """
    failed = [end for end in ends if end.code != DONE]
    return min(failed, key=lambda end: (end.reported, end.code == CRASHED), default=None)


def _killed(child: _Child, name: str, again: str) -> End:
    code = child.process.exitcode or CRASHED
    how = f"ended with exit code {code}"
    if code < 0:
        names = {each.value: each.name for each in signal.Signals}
        code, how = 128 - code, f"was killed by {names.get(-code, f'signal {-code}')}"
    said = ""
    if code == 128 + signal.SIGKILL:
        how += ", as a machine does where memory runs out"
    elif child.said.is_file():
        said = child.said.read_text(errors="replace")
    return End(
        code,
        f"{said}error: {name} (process id {child.process.pid}) {how}, so the others were stopped; "
        f"{again}, {OPTION} 1 runs one process",
        reported=False,
    )


def _end(children: Sequence[_Child]) -> None:
    """Ends processes that have not ended by themselves, or are waiting for it."""
    with interrupts_ignored():
        for child in children:
            if child.end is None:
                child.process.terminate()
            child.reports.close()
        deadline = time.monotonic() + _SECONDS_TO_END
        for child in children:
            child.process.join(max(0.0, deadline - time.monotonic()))
        for child in children:
            child.process.kill()
            child.process.join()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end this process as an exception, so that it ends the others."""
    kept = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


def _exit(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _process(place: Place, said: Path, work: Work, again: str, reports: Connection) -> None:
    """Runs in a started process: works, reports, and after a failure waits to be ended."""
    signal.signal(signal.SIGTERM, _exit)
    # A spawned process would spawn its loaders too, and each would import torch for itself.
    multiprocessing.set_start_method(None, force=True)
    threading.Thread(target=end_with_parent, daemon=True).start()
    if place.rank > 0:
        # Only the first process prints.
        with open(os.devnull, "wb") as nothing, said.open("wb") as file:
            os.dup2(nothing.fileno(), 1)
            os.dup2(file.fileno(), 2)

    def work_here() -> None:
        work(place)

    try:
        code, message = outcome(work_here, again)
    except Exception:
        code, message = CRASHED, traceback.format_exc().rstrip()
    reports.send((code, message))
    # Python is on its way out, where an exception would be shown.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if code != DONE:
        # The others would take the end of this process for the cause.
        reports.poll(None)
