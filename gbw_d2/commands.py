"""How a command ends: what people see of it, and its exit code."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

from gbw_d2.errors import UserError

DONE, USER_ERROR, INTERRUPTED = 0, 2, 130
# A full disk, a quota, a file system that takes no files, or none of this size.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def finish(work: Callable[[], int | None], again: str = "the same command begins anew") -> int:
    """Runs a command to its end and says how it ended.

    Args:
        work: the command; returns its exit code, None for 0.
        again: how to go on after Ctrl-C or on a disk that has room again.

    Returns:
        The exit code: that of ``work``, 2 where the user can mend what is wrong, 130 after Ctrl-C;
        each of these with one message and no traceback.
    """
    code, message = outcome(work, again)
    if code == INTERRUPTED:
        # A second one would end what Python does on its way out with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # torchrun's processes all come here.
        if os.environ.get("RANK", "0") != "0":
            message = ""
        elif sys.stderr.isatty():
            message = f"\n{message}"  # the terminal shows ^C
    if message:
        print(message, file=sys.stderr)
    return code


def outcome(work: Callable[[], int | None], again: str) -> tuple[int, str]:
    """Runs a command to its end; arguments as for :func:`finish`.

    Returns:
        the exit code, and the line that says why it is not 0; "" where there is nothing to say.
    """
    # What a full log or a writer's thread cannot write, the main thread will be told of.
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
        if error.filename is None:
            raise
        return USER_ERROR, f"error: {error}"


def _tell_of_a_thread(given: threading.ExceptHookArgs) -> None:
    if not (isinstance(given.exc_value, OSError) and given.exc_value.errno in NO_ROOM):
        threading.__excepthook__(given)


def _close_logs() -> None:
    """Closes log files, whose rest a full disk does not take: at exit it would be a traceback."""
    for name in ("", *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            stream = getattr(handler, "stream", None)
            if os.path.isfile(str(getattr(stream, "name", ""))):
                with contextlib.suppress(OSError):
                    stream.close()
