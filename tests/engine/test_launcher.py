"""Several processes end like one command: one message, one exit code, no process left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gbw_d2.engine.launcher import CRASHED, End, first_cause

ROOT = Path(__file__).parents[2]
LINE = "2 processes share each batch on the CPU (--num-processes 1: one process)\n"


def start(folder: Path, case: str) -> subprocess.Popen[str]:
    own = ("OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    environment = {k: v for k, v in os.environ.items() if k not in own}
    if case == "all well":
        environment["MALLOC_TRIM_THRESHOLD_"] = "7"
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests/helpers/launched.py"), str(folder), case],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        # A shell starts background jobs with this signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finished(folder: Path, case: str) -> tuple[int, str, str]:
    """Returns exit code, standard output and error of a case, which leaves no process behind."""
    process = start(folder, case)
    out, error = process.communicate(timeout=60)
    assert left(folder) == []
    return process.returncode, out, error


def left(folder: Path) -> list[int]:
    pids = [int(path.read_text()) for path in folder.glob("*.pid")]
    assert len(pids) == 2
    return [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_both_work(folder: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not all((folder / f"{rank}.pid").exists() for rank in (0, 1)):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    code, out, error = finished(tmp_path, "same mistake")
    assert (code, error) == (2, "error: no such thing\n")
    # The first process speaks.
    assert out.startswith(LINE) and "process 1" not in out


@pytest.mark.slow
def test_all_well(tmp_path: Path) -> None:
    assert finished(tmp_path, "all well") == (0, f"{LINE}process 0 prints\n", "")
    # One thread and memory that is kept, unless the environment says else.
    found = [(tmp_path / f"{rank}.environment").read_text() for rank in (0, 1)]
    # Loaders start as they do in one process: forked ones need not import torch again.
    assert found == [f"1 33554432 7 {multiprocessing.get_all_start_methods()[0]}"] * 2


@pytest.mark.slow
def test_a_mistake_of_one_while_the_other_waits(tmp_path: Path) -> None:
    code, _, error = finished(tmp_path, "one mistake")
    assert (code, error) == (2, "error: a truncated file\n")


@pytest.mark.slow
def test_one_that_is_killed_is_named_and_not_who_lost_contact(tmp_path: Path) -> None:
    code, _, error = finished(tmp_path, "killed")
    pid = (tmp_path / "1.pid").read_text()
    assert code == 128 + signal.SIGKILL
    assert error.startswith(f"error: process 2 of 2 (process id {pid}) was killed by SIGKILL")
    assert "go on" in error and "--num-processes 1" in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    code, _, error = finished(tmp_path, "bug")
    assert code == 1 and error.startswith("process 2 of 2:\nTraceback")
    assert error.endswith("KeyError: 'a bug'\n") and error.count("Traceback") == 1


@pytest.mark.slow
@pytest.mark.parametrize("to_group", [True, False])
def test_ctrl_c(tmp_path: Path, to_group: bool) -> None:
    process = start(tmp_path, "work")
    wait_until_both_work(tmp_path, process)
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "stopped; go on\n")
    assert left(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_launcher(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "work")
    wait_until_both_work(tmp_path, process)
    os.kill(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -9) and error == ""
    end = time.monotonic() + 20
    while left(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    assert left(tmp_path) == []


def test_what_explains_the_others() -> None:
    well, mistake, bug = End(0, ""), End(2, "error: x"), End(CRASHED, "Traceback")
    killed = End(137, "error: process 2 was killed", reported=False)
    assert first_cause([]) is None and first_cause([well, well]) is None
    assert first_cause([well, bug]) is bug
    assert first_cause([bug, mistake]) is mistake
    assert first_cause([bug, killed]) is killed and first_cause([mistake, killed]) is killed
    first = End(2, "error: y")
    assert first_cause([first, mistake]) is first
