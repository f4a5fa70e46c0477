"""Worker processes do what they are given, and end with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gbw_d2.files.processes import in_processes, run_to_end

# Each item writes the number of its process and sleeps.
PROGRAM = """
import os, sys, time
from functools import partial
from pathlib import Path
from gbw_d2.commands import finish
from gbw_d2.files.processes import in_processes

def work(folder, item):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(0.5)

if __name__ == "__main__":
    sys.exit(finish(lambda: list(in_processes(partial(work, sys.argv[1]), range(999), 2)) and 0))
"""


def test_results_come_in_order() -> None:
    assert list(in_processes(abs, [-3, 2, -1], 2)) == [3, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the group", "the main process", "kill -9"])
def test_an_end(tmp_path: Path, how: str) -> None:
    program, folder = tmp_path / "program.py", tmp_path / "seen"
    program.write_text(PROGRAM)
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(program), str(folder)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for(lambda: len(list(folder.iterdir())) == 2)
    if how == "the group":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGKILL if how == "kill -9" else signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    if how != "kill -9":
        assert (process.returncode, shown) == (130, "stopped; the same command starts again\n")
    workers = [int(path.name) for path in folder.iterdir()]
    wait_for(lambda: not any(is_alive(number) for number in workers))


def test_a_command_gets_time_to_clean_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_to_end([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    code = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(Path(sys.argv[1]).touch()))\n"
        "Path(sys.argv[2]).touch()\n"
        "time.sleep(60)\n"
    )
    cleaned, ready = tmp_path / "cleaned", tmp_path / "ready"
    real_wait = subprocess.Popen.wait

    def interrupted(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout is None:
            wait_for(ready.exists)
            raise KeyboardInterrupt
        return real_wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_to_end([sys.executable, "-c", code, str(cleaned), str(ready)])
    assert cleaned.exists()


def wait_for(condition: object) -> None:
    end = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
