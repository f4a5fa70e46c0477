"""The results of a study: one JSON line per run, in results.jsonl of its folder."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gbw_d2.errors import UserError
from gbw_d2.files.atomic import write_atomically
from gbw_d2.plain_files import ContentError, parse_json
from gbw_d2.results.reader import LOSSES, SCORES, read_metrics, read_results, read_scores
from gbw_d2.results.tables import read_text

FILE = "results.jsonl"
CLASS_SCORES = ("IoU", "recall", "PQ")

_RUN = ("recipe", "arm", "seed", "config", "package", "threads", "scores")
_FINISHED = ("iterations", "wall_seconds", "step_seconds", "peak_memory_mb", "torch", "device")

Row = dict[str, Any]
RunName = tuple[str, str, int]  # recipe, arm, seed
Values = Mapping[str, float | None]


def read_rows(folder: Path) -> list[Row]:
    """Reads a study's rows; there are none before the first run.

    Raises:
        UserError: a line is no row; the last line may be incomplete and is then left out.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    lines = read_text(path).splitlines()
    rows = []
    for number, text in enumerate(lines, start=1):
        try:
            rows.append(_checked(parse_json(text)))
        except (ValueError, TypeError, AttributeError) as error:
            if number == len(lines) and isinstance(error, ContentError):
                break  # the file was copied while it was written, or incompletely
            raise UserError(
                f"{path}, line {number}: not what gbw_studies.study writes ({error}); the file is "
                "damaged: restore the line, or delete it to run it again"
            ) from error
    return rows


def _checked(row: Any) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"found {row!r}")
    missing = [key for key in _RUN + (() if "error" in row else _FINISHED) if key not in row]
    if missing:
        raise ValueError(f"no {', '.join(map(repr, missing))}")
    for dataset, scores in row["scores"].items():
        if not {"metrics", "classes"} <= scores.keys():
            raise ValueError(f"no metrics or no classes of {dataset}")
    return row


def write_rows(folder: Path, rows: Iterable[Row]) -> None:
    """Writes a study's rows in sorted order, so that a new row is a single line of a diff."""
    rows = sorted(rows, key=run_name)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(folder / FILE, text.encode())


def replace_row(rows: Iterable[Row], new: Row) -> list[Row]:
    """Returns the rows with a run's earlier row, if any, replaced."""
    name = run_name(new)
    return [row for row in rows if run_name(row) != name] + [new]


def rows_of_others(folder: Path) -> list[Row]:
    """Reads the rows of all other studies, each with the study's name as its origin."""
    others = sorted(path.parent for path in folder.parent.glob(f"*/{FILE}"))
    return [
        {"taken_from": other.name, **row}
        for other in others
        if other.name != folder.name
        for row in read_rows(other)
    ]


def run_name(row: Row) -> RunName:
    """Returns recipe, arm and seed, which identify a run of a study."""
    return row["recipe"], row["arm"], row["seed"]


def read_output(folder: Path) -> Row:
    """Reads a finished run's OUTPUT_DIR: scores of every test set, time and memory."""
    results = read_results(folder)
    run, names = results["run"], list(results["datasets"])
    protocol = run["config"]["EVAL"]["PROTOCOLS"][0]
    scores = {}
    for index, name in enumerate(names):
        table = folder / (name.replace("/", "_") if index else "") / SCORES
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
    """Returns the median time of an iteration from metrics.json."""
    times = [entry["time"] for entry in read_metrics(folder / LOSSES) if "time" in entry]
    return round(statistics.median(times), 4) if times else None


def _classes(path: Path, protocol: str) -> dict[str, dict[str, float | None]]:
    return {
        name: {score: _rounded(row[score]) for score in CLASS_SCORES if score in row}
        for name, row in read_scores(path).get(protocol, {}).items()
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
    return rare_mean(scores["classes"], metric.removeprefix("rare_"), rare)


def rare_mean(classes: Mapping[str, Values], score: str, rare: Sequence[str]) -> float | None:
    """Averages a score over the rare classes for which it is defined.

    Args:
        classes: class name -> score name -> value.
        score: ``IoU``, ``recall`` or ``PQ``.
        rare: names of the rare classes.
    """
    return mean([classes.get(name, {}).get(score) for name in rare])


def mean(values: Iterable[float | None]) -> float | None:
    """Averages the defined values; None if there are none."""
    defined = [value for value in values if value is not None]
    return statistics.mean(defined) if defined else None
