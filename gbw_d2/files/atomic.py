"""Atomic writing of files, used for all files of this project."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path, ending: str = ".tmp", alone: bool = False) -> Iterator[Path]:
    """Yields a temporary name to write to, and renames it to ``path`` at the end of the block.

    If the block raises an error, the temporary file is removed and ``path`` is unchanged.

    Args:
        path: the file; its folder is made if it is missing.
        ending: ending of the temporary name, for writers that depend on it. No reader of the folder
        may look for this ending, because a killed process leaves the temporary file behind.
        alone: whether no other process writes this path. The temporary name then has no process id,
            so that the next write replaces a file that a killed process left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    number = "" if alone else f".{os.getpid()}"
    temporary = path.with_name(f".{path.name}{number}{ending}")
    try:
        with naming(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Adds the file's name to an OSError that lacks it, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_atomically(path: str | Path, content: bytes | str, alone: bool = False) -> None:
    """Writes a file atomically; text as UTF-8.

    Args:
        path: the file; its folder is made if it is missing.
        content: the whole content.
        alone: as in :func:`replacing`.
    """
    with replacing(path, alone=alone) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def cut_to_whole_lines(path: str | Path) -> None:
    """Removes an incomplete last line, which a killed process or a full disk leaves.

    Args:
        path: a file that is written line by line; it need not exist.
    """
    path = Path(path)
    if not path.is_file():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


def put_in_place(made: Path, path: Path) -> None:
    """Renames a file or folder that was made elsewhere on the same disk.

    Args:
        made: the complete file or folder.
        path: its final path; an existing file is replaced, a folder must not exist there.
    """
    os.replace(made, path)
