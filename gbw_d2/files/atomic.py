"""The one way in which files are written: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path, ending: str = ".tmp", alone: bool = False) -> Iterator[Path]:
    """Gives a temporary name to write to, and renames that to ``path`` when the block has ended.

    Where the block raises, nothing is left of the temporary file and ``path`` is as it was.

    Args:
        path: the file; its folder is made where it is missing.
        ending: of the temporary name, for writers that go by it. It must be none that is looked
            for in that folder, since a process that is killed leaves the temporary file behind.
        alone: no other process writes this path. The name then holds no process number, so that
            the next write replaces what a killed process left.
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
    """Lets an error of the system say which file it is about, as that of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_atomically(path: str | Path, content: bytes | str, alone: bool = False) -> None:
    """Writes a file whole; text as UTF-8.

    Args:
        path: the file; its folder is made where it is missing.
        content: all of it.
        alone: as in :func:`replacing`.
    """
    with replacing(path, alone=alone) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def cut_to_whole_lines(path: str | Path) -> None:
    """Takes off a last line without an end, which a killed process or a full disk leaves.

    Args:
        path: a file that is appended to line by line; it need not be there.
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
        made: what is there, whole.
        path: its place; a file there is replaced, a folder must not be there.
    """
    os.replace(made, path)
