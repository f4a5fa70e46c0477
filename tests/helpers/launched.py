"""The work of the processes of tests/engine/test_launcher.py, which import this file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from gbw_d2.commands import finish
from gbw_d2.engine.launcher import Place, run_in_processes
from gbw_d2.errors import UserError


def work(folder: Path, case: str, place: Place) -> None:
    """Behaves as a case says; waits forever if only the other process fails in that case."""
    # Renamed when complete, because the test reads the file as soon as it exists.
    unfinished = folder / f"{place.rank}.unfinished"
    unfinished.write_text(str(os.getpid()))
    unfinished.rename(folder / f"{place.rank}.pid")
    print(f"process {place.rank} prints")
    while len(list(folder.glob("*.pid"))) < place.number:
        time.sleep(0.01)
    if case == "all well":
        names = ("OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
        found = [*map(os.environ.get, names), multiprocessing.get_start_method()]
        (folder / f"{place.rank}.environment").write_text(" ".join(found))
        return
    if case == "same mistake":
        raise UserError("no such thing")
    if place.rank == 1 and case == "one mistake":
        raise UserError("a truncated file")
    if place.rank == 1 and case == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if place.rank == 1 and case == "bug":
        raise KeyError("a bug")
    if case == "killed":
        # The error that gloo raises when the other process is gone.
        raise RuntimeError("gloo/transport: connection closed by peer")
    while True:
        time.sleep(0.01)


if __name__ == "__main__":
    mine = partial(work, Path(sys.argv[1]), sys.argv[2])
    sys.exit(finish(lambda: run_in_processes(mine, 2, "go on"), "go on"))
