"""How commands end: one message, no traceback, an exit code that says what it was."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gbw_d2.commands import finish
from gbw_d2.errors import UserError


@pytest.fixture(autouse=True)
def kept_handler() -> Iterator[None]:
    kept = signal.getsignal(signal.SIGINT)
    hooks = threading.excepthook, logging.raiseExceptions
    yield
    signal.signal(signal.SIGINT, kept)
    threading.excepthook, logging.raiseExceptions = hooks


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("no such key"), 2, "error: no such key\n"),
        (KeyboardInterrupt(), 130, "stopped; go on\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "make room, then go on\n"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2, "make room, then go on\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.png"), 2, "No such file: 'a.png'\n"),
    ],
)
def test_one_line(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    assert finish(work, "go on") == code
    shown = capsys.readouterr().err
    assert shown.endswith(words) and shown.count("\n") == 1


def test_a_full_log_and_a_full_writers_thread_say_nothing_more(
    small_disk: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    logger = logging.getLogger("a full log")
    handler = logging.FileHandler(tmp_path / "log.txt")
    logger.addHandler(handler)

    def work() -> None:
        thread = threading.Thread(target=full)
        thread.start()
        thread.join()
        logger.error("x" * 1000)
        full()

    with small_disk(100):
        assert finish(work) == 2
    assert handler.stream.closed
    logger.removeHandler(handler)
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_ours_to_mend_keeps_its_traceback() -> None:
    for error in (BrokenPipeError(errno.EPIPE, "Broken pipe"), ValueError("a bug")):
        with pytest.raises(type(error)):
            finish(lambda error=error: (_ for _ in ()).throw(error))  # type: ignore[misc]


@pytest.mark.parametrize("buffering", [1, -1])
def test_output_that_is_cut_off_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], buffering: int
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w", buffering=buffering)  # noqa: SIM115
    monkeypatch.setattr(sys, "__stdout__", stream)

    def talk() -> None:
        for _ in range(2000):
            print("a line", file=stream)

    assert finish(talk) == 141
    assert finish(lambda: print("more", file=stream)) == 0
    stream.close()
    assert capsys.readouterr().err == ""


def test_exit_codes_pass() -> None:
    assert [finish(lambda code=code: code) for code in (None, 0, 1)] == [0, 0, 1]


def test_a_second_ctrl_c_is_not_heard(capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(lambda: signal.raise_signal(signal.SIGINT)) == 130
    signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().err == "stopped; the same command starts again\n"


def test_one_of_torchruns_processes_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert finish(lambda: signal.raise_signal(signal.SIGINT)) == 130
    assert capsys.readouterr().err == ""


# One looks whether this package's own imports work, one answers another process.
NO_COMMANDS = ("tools/check_env.py", "tools/benchmarks/versions.py")
# The functions of prepare_common.py call the first.
ENDS = ("finish(", "run_script", "run_source_script(")


def test_every_command_ends_this_way(repository: Path) -> None:
    scripts = [
        path
        for folder in ("gbw_d2", "gbw_studies", "tools", "datasets", ".")
        for path in repository.glob(f"{folder}/*.py" if folder == "." else f"{folder}/**/*.py")
        if '__name__ == "__main__"' in path.read_text()
        and str(path.relative_to(repository)) not in NO_COMMANDS
    ]
    assert len(scripts) > 20
    lacking = [path.name for path in scripts if not any(call in path.read_text() for call in ENDS)]
    assert lacking == []
