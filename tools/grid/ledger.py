"""The committed results of a study: one JSON line per run, in results.jsonl of its folder."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gbw_d2.evaluation.report import write_atomically

FILE = "results.jsonl"
CLASS_SCORES = ("IoU", "recall", "PQ")

Row = dict[str, Any]


def read_rows(folder: Path) -> list[Row]:
    """Reads a study's rows; none where nothing has been run yet."""
    path = folder / FILE
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(folder: Path, rows: Iterable[Row]) -> None:
    """Writes a study's rows, sorted, so that a new one is one line of the difference."""
    rows = sorted(rows, key=lambda row: (row["recipe"], row["arm"], row["seed"]))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(folder / FILE, text.encode())


def replace_row(rows: Iterable[Row], new: Row) -> list[Row]:
    """Returns the rows with a run's earlier row, if any, replaced."""
    run = _identity(new)
    return [row for row in rows if _identity(row) != run] + [new]


def _identity(row: Row) -> tuple[str, str, int]:
    return row["recipe"], row["arm"], row["seed"]


def read_output(folder: Path) -> Row:
    """Reads what a finished run left in its OUTPUT_DIR: scores of every test set, time, memory."""
    results = json.loads((folder / "results.json").read_text())
    run, names = results["run"], list(results["datasets"])
    protocol = run["config"]["EVAL"]["PROTOCOLS"][0]
    scores = {}
    for index, name in enumerate(names):
        table = folder / (name if index else "") / "per_class.csv"
        scores[name] = {
            "metrics": {k: _rounded(v) for k, v in results["datasets"][name].items()},
            "classes": _classes(table, protocol),
        }
    return {
        "iterations": run["iterations"],
        "wall_seconds": round(run["wall_seconds"], 1),
        "step_seconds": step_seconds(folder),
        "peak_memory_mb": run["peak_memory_mb"],
        "torch": run["torch"],
        "device": run["device"],
        "scores": scores,
    }


def step_seconds(folder: Path) -> float | None:
    """Returns the median time of an iteration, as metrics.json has it."""
    lines = (folder / "metrics.json").read_text().splitlines()
    times = [entry["time"] for entry in map(json.loads, lines) if "time" in entry]
    return round(statistics.median(times), 4) if times else None


def _classes(path: Path, protocol: str) -> dict[str, dict[str, float | None]]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["protocol"] == protocol]
    return {
        row["class"]: {
            score: _rounded(float(row[score])) if row[score] else None
            for score in CLASS_SCORES
            if score in row
        }
        for row in rows
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def score(row: Row, dataset: str, metric: str, rare: Sequence[str]) -> float | None:
    """Returns a score of a run, 0-100.

    Args:
        row: of a finished run.
        dataset: a test set.
        metric: a flat metric (``mIoU_16``), or ``rare_IoU``, ``rare_recall``, ``rare_PQ``: the mean
            over the rare classes where it is defined.
        rare: names of the rare classes.
    """
    scores: Mapping[str, Any] = row["scores"][dataset]
    if not metric.startswith("rare_"):
        return scores["metrics"].get(metric)
    wanted = metric.removeprefix("rare_")
    values = [scores["classes"].get(name, {}).get(wanted) for name in rare]
    defined = [value for value in values if value is not None]
    return statistics.mean(defined) if defined else None
