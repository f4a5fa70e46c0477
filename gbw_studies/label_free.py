#!/usr/bin/env python3
"""Computes rank correlations between label-free criteria and mIoU, over checkpoints of runs.

    uv run -m gbw_studies.label_free output/my_runs/*
    uv run -m gbw_studies.label_free output/my_runs/* --metric recall_16

The arguments are OUTPUT_DIRs of runs with EVAL.LABEL_FREE_IMAGES and TEST.EVAL_PERIOD. The output
is a Markdown table for each pair of source and target. The sign of Spearman's correlation is such
that 1 means that a better criterion implies a higher metric on the first test set. The row "later"
is a baseline that considers the later checkpoint the better one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from gbw_d2.commands import finish
from gbw_d2.errors import UserError
from gbw_d2.evaluation.label_free import CRITERIA, PREFIX
from gbw_d2.results.reader import LOSSES, read_metrics, read_results
from gbw_studies.results.cells import cell, table

LATER = "later"


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of one run.

    Args:
        problem: source and target.
        metric: (T,) of the first test set.
        scores: criterion -> (T,), with its sign such that greater is better.
    """

    problem: str
    metric: np.ndarray
    scores: dict[str, np.ndarray]


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Returns the correlation of ranks, -1..1; None if either is constant or has one value.

    Args:
        first: (T,) values; equal ones share their mean rank.
        second: likewise.
    """
    ranks = np.stack([rankdata(first), rankdata(second)])
    if not all(np.ptp(rank) for rank in ranks):
        return None
    return float(np.corrcoef(ranks)[0, 1])


def read_evaluations(folder: Path, metric: str | None) -> Evaluations:
    """Reads the evaluations of a finished run.

    Args:
        folder: its OUTPUT_DIR.
        metric: of the first test set; None for mIoU under the run's leading protocol.

    Raises:
        UserError: the run is not finished, or has no such metric or no label-free criteria.
    """
    config = read_results(folder)["run"]["config"]
    name = metric or f"mIoU_{config['EVAL']['PROTOCOLS'][0]}"
    found = [e for e in read_metrics(folder / LOSSES) if name in e and f"{PREFIX}entropy" in e]
    if not found:
        raise UserError(
            f"{folder}: no evaluation has both {name} and label-free criteria; train with "
            "EVAL.LABEL_FREE_IMAGES 32 and TEST.EVAL_PERIOD, or give another --metric"
        )
    scores = {
        criterion.removeprefix(PREFIX): np.array([e[criterion] for e in found])
        * (1 if how.greater_is_better else -1)
        for criterion, how in CRITERIA.items()
        if criterion in found[0]
    }
    scores[LATER] = np.array([e["iteration"] for e in found])
    data = config["DATASETS"]
    return Evaluations(
        f"{', '.join(data['TRAIN'])} to {', '.join(data['TARGET'])}",
        np.array([e[name] for e in found]),
        scores,
    )


def table_of(runs: Sequence[Evaluations]) -> str:
    """Writes a row per criterion, over the runs that have it.

    The columns are the correlation within each run, over all evaluations, and between the last
    evaluations of the runs; and how far the metric of the checkpoint that the criterion chooses is
    below that of the run's best checkpoint.
    """
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run.scores):
        having = [run for run in runs if name in run.scores]
        within = [spearman(run.scores[name], run.metric) for run in having]
        lost = [run.metric.max() - run.metric[run.scores[name].argmax()] for run in having]
        rows.append(
            [
                name,
                f"{len(having)}, {sum(len(run.metric) for run in having)}",
                _spread(within),
                _number(_pooled(having, name, slice(None))),
                "-" if name == LATER else _number(_pooled(having, name, slice(-1, None))),
                f"{cell([float(value) for value in lost])}, {max(lost):.1f}",
            ]
        )
    return table(
        [
            "criterion",
            "runs, evaluations",
            "within a run: mean (least, greatest)",
            "all evaluations",
            "between last ones",
            "lost by its choice: mean, most",
        ],
        rows,
    )


def _pooled(runs: Iterable[Evaluations], name: str, part: slice) -> float | None:
    pairs = [(run.scores[name][part], run.metric[part]) for run in runs]
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return spearman(first, second)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{np.mean(known):+.2f} ({min(known):+.2f}, {max(known):+.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="OUTPUT_DIR", help="of a run")
    parser.add_argument("--metric", help="of the first test set; by default its leading mIoU")
    args = parser.parse_args(arguments)

    def work() -> None:
        runs = [read_evaluations(folder, args.metric) for folder in args.runs]
        for problem in dict.fromkeys(run.problem for run in runs):
            print(f"{problem}\n\n{table_of([run for run in runs if run.problem == problem])}\n")

    return finish(work)


if __name__ == "__main__":
    sys.exit(main())
