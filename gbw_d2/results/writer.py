"""Writes the files of an evaluation: CSV files and results.json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gbw_d2.files.atomic import write_atomically
from gbw_d2.results.plain import plain
from gbw_d2.results.run_info import RUN_KEYS

# protocol name -> class name -> score name -> value (None where undefined)
PerClass = dict[str, dict[str, dict[str, Any]]]


def write_per_class_csv(path: str | Path, per_class: PerClass) -> None:
    """Writes one line per protocol and class; undefined scores are empty cells."""
    write_csv(
        path,
        [
            {"protocol": protocol, "class": name, **row}
            for protocol, rows in per_class.items()
            for name, row in rows.items()
        ],
    )


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as CSV, columns in the order they first appear; None is an empty cell."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain(row) for row in rows)
    write_atomically(path, text.getvalue().encode())


def write_results_json(
    path: str | Path,
    metrics: Mapping[str, Any],
    datasets: Mapping[str, Mapping[str, Any]],
    per_class: Mapping[str, Any],
    run: Mapping[str, Any],
) -> None:
    """Writes ``results.json``; numbers that are not finite become null.

    Args:
        path: the file, which is replaced atomically.
        metrics: flat metrics of the first test set.
        datasets: name -> flat metrics, for every test set.
        per_class: protocol -> class name -> scores, of the first test set.
        run: the result of :func:`run_info`.

    Raises:
        ValueError: ``run`` lacks an entry.
    """
    missing = [key for key in RUN_KEYS if key not in run]
    if missing:
        raise ValueError(f"results.json needs run entries {missing}; run_info() makes them")
    content = {"metrics": metrics, "datasets": datasets, "per_class": per_class, "run": run}
    text = json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode())
