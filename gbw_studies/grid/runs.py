"""Runs jobs in parallel, each in its own process, forked after all imports."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from gbw_d2.files.locking import exclusive
from gbw_studies.grid.plan import Job

LOG = "run.log"
# Exit code of a run whose training diverged, which counts as a result.
DIVERGED = 3


def run_all(
    jobs: Sequence[tuple[Job, Path]],
    workers: int,
    threads: int,
    finished: Callable[[Job, Path, int, float], None],
) -> None:
    """Runs jobs in order, several at a time; an interrupted job is resumed.

    Args:
        jobs: each with its OUTPUT_DIR.
        workers: processes at a time.
        threads: of torch, per process.
        finished: called after each with its exit code and seconds.
    """
    context = multiprocessing.get_context("forkserver")
    # The fork server imports the modules once, which would take each run ten seconds.
    context.set_forkserver_preload(["gbw_d2.engine.setup", "gbw_d2.engine.train"])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    waiting = list(jobs)
    running: dict[BaseProcess, tuple[Job, Path, int, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job, folder = waiting.pop(0)
                taken = {slot for _, _, slot, _ in running.values()}
                slot = next(s for s in range(workers) if s not in taken)
                process = context.Process(target=_run, args=(job, str(folder), threads, slot))
                # A started run that is not in the list would not be ended with this process.
                with signals_wait():
                    process.start()
                    running[process] = (job, folder, slot, time.perf_counter())
            wait([process.sentinel for process in running])
            for process in [p for p in running if p.exitcode is not None]:
                job, folder, _, start = running.pop(process)
                assert process.exitcode is not None
                finished(job, folder, process.exitcode, time.perf_counter() - start)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()


@contextmanager
def signals_wait() -> Iterator[None]:
    """Delays SIGINT and SIGTERM until the end of the block."""
    # Not by a signal mask, because processes that are started inside would inherit it.
    came: list[int] = []
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in kept:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _run(job: Job, folder: str, threads: int, slot: int) -> None:
    """Trains one job, with its output in run.log in its folder."""
    # Another study.py may be running the same job: this one waits, and then finds it finished.
    with exclusive(Path(folder)):
        _train(job, folder, threads, slot)


def _train(job: Job, folder: str, threads: int, slot: int) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (Path(folder) / LOG).open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    import torch

    from gbw_d2.engine.setup import setup
    from gbw_d2.engine.train import train
    from gbw_d2.errors import UserError

    torch.set_num_threads(threads)
    devices = torch.cuda.device_count()
    where = ["MODEL.DEVICE", f"cuda:{slot % devices}"] if devices > 1 else []
    words = [*job.words, *where, "OUTPUT_DIR", folder]
    try:
        args = Namespace(config_file=job.config_file, opts=words, eval_only=False, resume=True)
        train(setup(args), resume=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (FloatingPointError, ValueError) as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(DIVERGED)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def last_words(folder: Path) -> str:
    """Returns the last line of a run's log, without the paths of this machine."""
    path = folder / LOG
    text = path.read_text(errors="replace") if path.is_file() else ""
    lines = text.strip().splitlines()
    last = lines[-1] if lines else "no log"
    return last.replace(str(Path.cwd()), ".").replace(str(Path.home()), "~")[:300]


def remove_checkpoints(folder: Path) -> None:
    """Deletes the weights and events of a finished run."""
    for path in folder.glob("*.pth"):
        path.unlink()
    # It names one of them; a run that is to be repeated here would look for it.
    (folder / "last_checkpoint").unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
