"""Verification of archives' checksums, because PyTorch reads damaged weights without an error."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

_CHUNK = 1 << 22


def check_archive(path: str | Path) -> None:
    """Compares the parts of a zip archive with their checksums; any other file passes.

    Args:
        path: a file, such as one written by ``torch.save``; parts with checksum 0 are skipped,
            because checksums can be turned off (``torch.serialization.set_crc32_options``).

    Raises:
        zipfile.BadZipFile: a part does not have its checksum.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                if part.CRC:
                    with archive.open(part) as file:
                        while file.read(_CHUNK):
                            pass
    # Damaged headers cause errors about offsets, unknown compression and passwords.
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error) as error:
        raise zipfile.BadZipFile(str(error)) from error
