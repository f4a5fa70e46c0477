"""A lock with which one process makes a file while the others wait for it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from gbw_d2.errors import UserError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds the exclusive lock to make ``path`` during the block; other processes wait.

    The block must check again whether ``path`` exists, because another process may have made it
    meanwhile. The operating system releases the lock when its process ends in any way.

    Args:
        path: the file or folder to make; ``.<name>.lock`` exists beside it meanwhile.

    Raises:
        UserError: the folder of ``path`` is not writable.
    """
    lock = path.with_name(f".{path.name}.lock")
    descriptor = _acquire(lock)
    try:
        yield
    finally:
        # The lock file is removed while it is held: a waiting process notices that and tries again.
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(lock: Path) -> int:
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(
                f"cannot write to '{lock.parent}' ({error.strerror}); give another folder, or let "
                "DETECTRON2_DATASETS name one that can be written"
            ) from error
        try:
            _wait(descriptor, lock)
            if _is_same_file(descriptor, lock):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _wait(descriptor: int, lock: Path) -> None:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("waiting for another process, which holds '%s'", lock)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        # Files are written atomically in any case: without locks, work is only done twice.
        logger.warning("'%s' cannot be locked (%s); going on without", lock, error.strerror)


def _is_same_file(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock))
    except FileNotFoundError:
        return False
