"""Makes up for an evaluation that a killed run did not finish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.evaluation.label_free import PREFIX
from gbw_d2.results.reader import LOSSES, read_metrics

from detectron2.utils import comm
from detectron2.utils.events import EventStorage

logger = logging.getLogger(__name__)

Writers = Callable[[], Sequence[Any]]


def evaluate_if_missed(
    folder: Path,
    done: int,
    due: Callable[[int], bool],
    evaluate: Callable[[int], Mapping[str, float]],
    writers: Writers,
) -> None:
    """Evaluates a resumed run if it was killed between its checkpoint and its evaluation.

    A checkpoint is written before the evaluation after the same iteration. Without this, the
    metrics would lack that evaluation, and EVAL.BEST_ON would not consider that checkpoint.

    Args:
        folder: the run's OUTPUT_DIR.
        done: iterations done.
        due: tells whether an evaluation is due after a number of iterations.
        evaluate: takes the number of iterations done and returns flat metrics.
        writers: makes the writers of metrics, on the first process.
    """
    if done and due(done) and not is_recorded(folder, done):
        logger.info("metrics.json lacks the evaluation after iteration %d; evaluating", done - 1)
        evaluate_and_record(done, evaluate, writers)


def is_recorded(folder: Path, done: int) -> bool:
    """Returns whether metrics.json has the evaluation after ``done`` iterations.

    The first process decides for all, because the others may not share its files.
    """
    return comm.all_gather(_is_there(folder / LOSSES, done))[0]


def evaluate_and_record(
    done: int, evaluate: Callable[[int], Mapping[str, float]], writers: Writers
) -> Mapping[str, float]:
    """Evaluates outside the training loop and writes the metrics; arguments as above.

    Returns:
        the metrics.
    """
    with EventStorage(done - 1) as storage:
        metrics = evaluate(done)
        storage.put_scalars(**metrics, smoothing_hint=False)
        for writer in writers() if comm.is_main_process() else ():
            writer.write()
            writer.close()
    comm.synchronize()
    return metrics


def _is_there(path: Path, done: int) -> bool:
    entries = read_metrics(path) if path.is_file() else []
    return any(_is_evaluation(e) for e in entries if e["iteration"] == done - 1)


def _is_evaluation(names: Collection[str]) -> bool:
    return any(name.startswith(("mIoU_", PREFIX)) for name in names)
