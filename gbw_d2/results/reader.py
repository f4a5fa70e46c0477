"""Reads the files of a run's OUTPUT_DIR: class weights, losses and scores per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gbw_d2.errors import UserError
from gbw_d2.plain_files import ContentError, parse_json, read_json
from gbw_d2.results.class_weights import COLUMNS
from gbw_d2.results.tables import read_table, read_text

WEIGHTS, LOSSES, SCORES = "class_weights.csv", "metrics.json", "per_class.csv"
RESULTS, CONFUSION = "results.json", "confusion.csv"

Curve = tuple[np.ndarray, np.ndarray]  # iterations done, values; both (T,), finite
Weights = dict[str, dict[str, dict[str, Curve]]]  # head -> term -> class name -> weight
Scores = dict[str, dict[str, dict[str, float | None]]]  # protocol -> class name -> score name


@dataclass(frozen=True)
class Run:
    """The content of an output folder's files; empty for files that do not exist yet."""

    name: str
    weights: Weights
    losses: dict[str, Curve]
    scores: Scores


def read_run(folder: Path, name: str) -> Run:
    """Reads an output folder of train_net.py.

    Raises:
        UserError: the folder does not exist, holds no run, or a file is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the OUTPUT_DIR of a run")
    there = [file for file in (WEIGHTS, LOSSES, SCORES) if (folder / file).is_file()]
    if not there:
        raise UserError(
            f"{folder} is no run: it holds none of {WEIGHTS}, {LOSSES}, {SCORES}; "
            "give the OUTPUT_DIR of a run of train_net.py"
        )
    return Run(
        name,
        read_weights(folder / WEIGHTS) if WEIGHTS in there else {},
        read_losses(folder / LOSSES) if LOSSES in there else {},
        read_scores(folder / SCORES) if SCORES in there else {},
    )


def read_weight_rows(path: Path) -> list[dict[str, str]]:
    """Reads the rows of class_weights.csv, without an incomplete last line.

    Raises:
        UserError: a column is missing.
    """
    rows = read_table(path, COLUMNS)
    if rows and not path.read_bytes().endswith(b"\n"):
        rows.pop()  # the run writes on, or was killed while it did
    return rows


def read_weights(path: Path) -> Weights:
    """Reads the weights of class_weights.csv over time.

    Raises:
        UserError: the columns or numbers are invalid.
    """
    rows = read_weight_rows(path)
    points: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for line, row in enumerate(rows, start=2):
        key = row["head"], row["term"], row["class"]
        points.setdefault(key, []).append(
            (_number(path, line, row["iteration"]), _number(path, line, row["weight"]))
        )
    weights: Weights = {}
    for (head, term, name), pairs in points.items():
        weights.setdefault(head, {}).setdefault(term, {})[name] = _curve(pairs)
    return weights


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads Detectron2's metrics.json, one entry per logged iteration, which counts from 0.

    A resumed run repeats iterations; the later line is used.

    Raises:
        UserError: a line other than the last is no JSON object.
    """
    lines = read_text(path).splitlines()
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse_json(line)
            iteration = entry["iteration"]
            _check_numbers(entry)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if number == len(lines):
                break  # the run writes on, or was killed while it did
            raise UserError(
                f"{path}, line {number}: expected a JSON object with an "
                "iteration; the file is damaged"
            ) from error
        while entries and entries[-1]["iteration"] >= iteration:
            entries.pop()
        entries.append(entry)
    return entries


def _check_numbers(entry: dict[str, Any]) -> None:
    if type(entry["iteration"]) is not int or not 0 <= entry["iteration"] < 1 << 53:
        raise ValueError("an iteration is a whole number")
    for name, value in entry.items():
        if type(value) not in (int, float) and (_is_loss(name) or name == "time"):
            raise ValueError(f"{name} is no number")


def read_losses(path: Path) -> dict[str, Curve]:
    """Reads total_loss, every ...loss_... and gradient_norm from metrics.json.

    Iterations are counted from 1, as in class_weights.csv.

    Raises:
        UserError: as :func:`read_metrics`.
    """
    entries = read_metrics(path)
    names = dict.fromkeys(k for entry in entries for k in entry if _is_loss(k))
    ordered = sorted(names, key=lambda n: (n == "gradient_norm", n != "total_loss"))
    return {
        name: _curve([(e["iteration"] + 1, e[name]) for e in entries if name in e])
        for name in ordered
    }


def _is_loss(name: str) -> bool:
    # Strategies put the images' name before that of the loss: mixed_loss_semantic.
    is_part = name.startswith("loss") or "_loss_" in name
    return is_part or name in ("total_loss", "gradient_norm")


def read_scores(path: Path) -> Scores:
    """Reads per_class.csv; an empty cell is None.

    Raises:
        UserError: the columns or numbers are invalid.
    """
    scores: Scores = {}
    for line, row in enumerate(read_table(path, ("protocol", "class")), start=2):
        protocol, name = row.pop("protocol"), row.pop("class")
        scores.setdefault(protocol, {})[name] = {
            key: _score(path, line, text) if text else None for key, text in row.items()
        }
    return scores


def _score(path: Path, line: int, text: str) -> float:
    number = _number(path, line, text)
    if not np.isfinite(number):
        raise UserError(f"{path}, line {line}: '{text}' is no score; the file is damaged")
    return number


def read_confusion(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Reads confusion.csv.

    Returns:
        Names of the true classes, names of the predicted classes (the last is "no class"), and the
        number of pixels of each pair, (K, K + 1) int64.

    Raises:
        UserError: a cell is no number.
    """
    rows = read_table(path, ("truth",))
    names = [row.pop("truth") for row in rows]
    predicted = list(rows[0]) if rows else []
    counts = np.array(
        [[_number(path, line, text) for text in row.values()] for line, row in enumerate(rows, 2)]
    ).reshape(len(names), len(predicted))
    if not ((counts >= 0) & (counts < 1 << 53)).all():
        raise UserError(f"{path} holds numbers that count no pixels; the file is damaged")
    return names, predicted, counts.astype(np.int64)


def read_results(folder: Path) -> dict[str, Any]:
    """Reads results.json of an output folder.

    Args:
        folder: the folder, or the file itself.

    Raises:
        UserError: the file does not exist or is damaged.
    """
    path = folder / RESULTS if folder.is_dir() else folder
    if not path.is_file():
        raise UserError(f"{folder} holds no {RESULTS}; the run is not finished")
    try:
        content = read_json(path)
        _check_results(content)
    except (ContentError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not what train_net.py writes ({error}); `--eval-only --resume` writes it "
            "anew"
        ) from error
    return content


def _check_results(content: dict[str, Any]) -> None:
    if not isinstance(content["run"], dict):
        raise ContentError("its entry 'run' is no mapping")
    for name, metrics in content["datasets"].items():
        for metric, value in metrics.items():
            if value is not None and type(value) not in (int, float):
                raise ContentError(f"{metric} of {name} is {value!r}, expected a number")


def _number(path: Path, line: int, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError as error:
        raise UserError(f"{path}, line {line}: '{text}' is no number") from error


def _curve(pairs: Sequence[tuple[float, float]]) -> Curve:
    table = np.array(pairs, dtype=float).reshape(-1, 2)
    table = table[np.isfinite(table).all(1)]
    return table[:, 0], table[:, 1]


def run_names(folders: Sequence[Path]) -> list[str]:
    """Returns names of runs: their folders, with as many parents as needed to make them unique."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("the same folder is given twice")
