"""class_weights.csv, the class weights during a run."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gbw_d2.errors import UserError
from gbw_d2.files.atomic import cut_to_whole_lines, naming, replacing
from gbw_d2.results.tables import read_table

COLUMNS = ("iteration", "head", "term", "class", "weight", "measure", "pixels")


class ClassWeightsFile:
    """Appends to class_weights.csv, so that a resumed run continues it.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, done: int) -> None:
        """Starts the file, or removes rows that a resumed run will write again.

        Args:
            done: iterations done so far; 0 for a new run.
        """
        kept = []
        cut_to_whole_lines(self.path)
        if done > 0 and self.path.is_file():
            rows = read_table(self.path, COLUMNS)
            # An incomplete last row is written again.
            kept = [r for r in rows if None not in r.values() and _iteration(self.path, r) <= done]
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)

    def append(self, rows: Iterable[Sequence[Any]]) -> None:
        """Appends rows of :data:`COLUMNS`."""
        with naming(self.path), self.path.open("a", newline="") as file:
            csv.writer(file).writerows(rows)


def _iteration(path: Path, row: dict[str, str]) -> int:
    try:
        return int(row["iteration"])
    except ValueError as error:
        raise UserError(
            f"{path}: iteration '{row['iteration']}' is no number, so --resume cannot cut the file "
            "where the run goes on; move it away to begin a new one"
        ) from error
