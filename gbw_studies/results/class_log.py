"""class_weights.csv of a run as arrays: the log of the semantic head over time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gbw_d2.errors import UserError
from gbw_d2.results.reader import WEIGHTS, read_weight_rows


@dataclass(frozen=True)
class ClassLog:
    """The log of a run for one loss term.

    Args:
        names: of the K classes, in the order of their ids.
        iterations: (T,) int64, of the logged batches.
        weights: (T, K) float64 class weights.
        measures: (T, K) float64 measures of those batches; NaN for a scheme without a measure.
        pixels: (T, K) float64 labelled pixels in those batches.
    """

    names: tuple[str, ...]
    iterations: np.ndarray
    weights: np.ndarray
    measures: np.ndarray
    pixels: np.ndarray


def read_class_log(folder: Path, term: str) -> ClassLog:
    """Reads the semantic head's rows of class_weights.csv.

    Args:
        folder: OUTPUT_DIR of a run.
        term: the loss term.

    Raises:
        UserError: no such file, or no row of the term.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{path} does not exist; name the OUTPUT_DIR of a run")
    rows: dict[int, dict[str, tuple[float, ...]]] = {}
    terms: dict[str, None] = {}
    for row in read_weight_rows(path):
        if row["head"] == "semantic":
            terms[row["term"]] = None
            if row["term"] == term:
                values = tuple(float(row[column]) for column in ("weight", "measure", "pixels"))
                rows.setdefault(int(row["iteration"]), {})[row["class"]] = values
    if not rows:
        raise UserError(
            f"{path} has no rows of the semantic head's term '{term}' "
            f"(there are: {', '.join(terms) or 'none'})"
        )
    names = tuple(dict.fromkeys(name for there in rows.values() for name in there))
    nothing = (np.nan, np.nan, 0.0)
    table = np.asarray([[there.get(name, nothing) for name in names] for there in rows.values()])
    return ClassLog(names, np.asarray(list(rows)), *np.moveaxis(table, -1, 0))
