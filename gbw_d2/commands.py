"""The end of a command: its messages and its exit code."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable

from gbw_d2.errors import UserError

DONE, USER_ERROR, INTERRUPTED = 0, 2, 130
# The code that a shell reports for a program whose output nobody reads: 128 + SIGPIPE.
CUT_OFF = 141
# Errors of a full disk, an exceeded quota, or a file system that accepts no files or none of this
# size.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def finish(work: Callable[[], int | None], again: str = "the same command starts again") -> int:
    """Runs a command to its end and prints its last message.

    Args:
        work: the command, which returns its exit code or None for 0.
        again: how to continue after Ctrl-C, or once the disk has space again.

    Returns:
        The exit code: that of ``work``, 2 for an error that the user can correct, or 130 after
        Ctrl-C, both with a message and without a traceback; or 141, without a message, where the
        output was cut off, as by ``| head``.
    """
    code, message = outcome(work, again)
    if code == INTERRUPTED:
        # A second Ctrl-C would interrupt Python's shutdown with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # With torchrun every process executes this.
        if os.environ.get("RANK", "0") != "0":
            message = ""
        elif sys.stderr.isatty():
            message = f"\n{message}"  # the terminal shows ^C
    _is_cut_off()  # and if so, discards what Python would write at exit
    if message:
        print(message, file=sys.stderr)
    return code


def outcome(work: Callable[[], int | None], again: str) -> tuple[int, str]:
    """Runs a command to its end; arguments as for :func:`finish`.

    Returns:
        the exit code, and the message about a code other than 0, or "".
    """
    # Errors in writing a log or in a writer's thread are reported by the main thread.
    logging.raiseExceptions = False
    threading.excepthook = _tell_of_a_thread
    try:
        return work() or DONE, ""
    except UserError as error:
        return USER_ERROR, f"error: {error}"
    except KeyboardInterrupt:
        return INTERRUPTED, f"stopped; {again}"
    except OSError as error:
        if error.errno in NO_ROOM:
            _close_logs()
            rest = f"nothing half-written is left behind; make room, then {again}"
            return USER_ERROR, f"error: {error}: {rest}"
        if isinstance(error, BrokenPipeError) and _is_cut_off():
            return CUT_OFF, ""
        if error.filename is None:
            raise
        return USER_ERROR, f"error: {error}"


def _is_cut_off() -> bool:
    """Returns whether nobody reads the output any more; the rest of it is then discarded.

    Otherwise Python would try to write it at exit, and end with a traceback.
    """
    cut_off = False
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None or stream.closed:
            continue
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
        watch = select.poll()
        watch.register(stream.fileno(), select.POLLERR)
        if any(event & select.POLLERR for _, event in watch.poll(0)):
            cut_off = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return cut_off


def _tell_of_a_thread(given: threading.ExceptHookArgs) -> None:
    if not (isinstance(given.exc_value, OSError) and given.exc_value.errno in NO_ROOM):
        threading.__excepthook__(given)


def _close_logs() -> None:
    """Closes log files; on a full disk, closing them at exit would print a traceback."""
    for name in ("", *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            stream = getattr(handler, "stream", None)
            if os.path.isfile(str(getattr(stream, "name", ""))):
                with contextlib.suppress(OSError):
                    stream.close()
