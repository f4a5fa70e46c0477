"""Reads the CSV files of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gbw_d2.errors import UserError


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Reads the rows of a CSV file by their columns' names.

    The last row may lack cells, which are then None: the run may still be writing or may have been
    killed.

    Args:
        path: the file.
        columns: required columns.

    Raises:
        UserError: a column is missing, or the file is damaged.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        missing = [c for c in columns if c not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{path} has no column {', '.join(missing)}; expected a file that "
                "train_net.py wrote"
            )
        names = list(reader.fieldnames or ())
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; the file is damaged") from error
    if len(set(names)) < len(names):
        raise UserError(f"{path} has a column twice; the file is damaged")
    for line, row in enumerate(rows, start=2):
        # csv puts surplus cells under the key None, and fills missing cells with None.
        if None in row or (None in row.values() and line <= len(rows)):
            raise UserError(f"{path}, line {line}: not as many cells as columns; it is damaged")
    return rows


def read_text(path: Path) -> str:
    """Reads a text file in UTF-8; raises :class:`UserError` if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text ({error.reason}); the file is damaged") from error
