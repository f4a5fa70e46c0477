"""Runs of train_net.py in processes that share one import of torch, Detectron2 and this package.

The imports take most of the processor time of a run of few steps. A server process
(``multiprocessing``'s forkserver) imports this module, which imports what a run needs, does nothing
else, and forks a process for each run.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from gbw_d2 import passive_waiting  # noqa: F401  # isort: skip  (before torch)

import torch._dynamo  # torch's optimisers import it
import torch.utils.tensorboard  # noqa: F401

from gbw_d2.engine import distributed, setup, train  # noqa: F401

from detectron2.engine import defaults

ROOT = Path(__file__).parents[2]
_CONTEXT = multiprocessing.get_context("forkserver")
# The server finds this module by its environment alone, and would do without it silently.
_PATHS = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(_PATHS)
_CONTEXT.set_forkserver_preload([Path(__file__).stem])
# The description of the machine at the start of a log takes a second; it is the same in each run.
defaults.collect_env_info = functools.cache(defaults.collect_env_info)


class Started:
    """A run in a process group of its own, whose output is read from a pipe.

    Args:
        words: the command line: Python, train_net.py, and its arguments.
        is_forked: whether it is forked from the server, or started as a user would.
    """

    output: IO[str]

    def __init__(self, words: Sequence[str], is_forked: bool) -> None:
        self._process: Any
        if is_forked:
            reader, writer = _CONTEXT.Pipe(duplex=False)
            self._process = _CONTEXT.Process(target=_run, args=(words[1:], writer))
            self._process.start()
            writer.close()
            self.output = os.fdopen(os.dup(reader.fileno()), errors="replace")
            reader.close()
        else:
            self._process = subprocess.Popen(
                words,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                preexec_fn=os.setpgrp,
            )
            self.output = self._process.stdout

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group."""
        return self._process.pid

    def wait(self) -> int:
        """Waits for its end; returns the exit code, negative for a signal."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.wait()
        self._process.join()
        return self._process.exitcode

    def is_running(self) -> bool:
        """Returns whether it has not ended."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll() is None
        return self._process.is_alive()

    def kill(self) -> None:
        """Kills it (SIGKILL) and all processes that it started."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        self.output.close()


def _run(arguments: Sequence[str], writer: Connection) -> None:
    os.setpgrp()
    os.chdir(ROOT)
    for descriptor in (1, 2):
        os.dup2(writer.fileno(), descriptor)
    writer.close()
    sys.argv = list(arguments)
    runpy.run_path(arguments[0], run_name="__main__")
