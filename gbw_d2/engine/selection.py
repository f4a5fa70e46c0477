"""Keeps the best checkpoint by a criterion (EVAL.BEST_ON)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.engine.checkpoint import Checkpointer
from gbw_d2.evaluation.label_free import CRITERIA
from gbw_d2.files.atomic import write_atomically
from gbw_d2.plain_files import ContentError, read_json

from detectron2.utils import comm

logger = logging.getLogger(__name__)

# Entries of results.json; with the prefix "model_" also the names of the files.
ON_LABELS = "best_on_target_labels"
LABEL_FREE = "best_label_free"


class BestCheckpoint:
    """Keeps the checkpoint with the best value of a criterion, in addition to the last checkpoint.

    Choosing by a label-free criterion (:data:`gbw_d2.evaluation.label_free.CRITERIA`) is legitimate
    in unsupervised domain adaptation. Choosing by a metric of the first test set is not, because it
    uses the target's labels: such a score is an upper bound, and files, log and results.json say
    so. In both cases the score is reported in addition to that of the last iteration.

    Args:
        criterion: name of a criterion or metric, of which greater is better; "" for no best
            checkpoint.
        checkpointer: writes the checkpoint.
        folder: OUTPUT_DIR.
        done: iterations done so far; entries of later iterations are dropped.
    """

    def __init__(self, criterion: str, checkpointer: Checkpointer, folder: Path, done: int) -> None:
        self.criterion = criterion
        self.checkpointer = checkpointer
        self.name = LABEL_FREE if criterion in CRITERIA else ON_LABELS
        self.path = folder / f"model_{self.name}.json"
        self.record: dict[str, Any] = {}
        if criterion and self.name == ON_LABELS:
            logger.warning(
                "EVAL.BEST_ON %s chooses a checkpoint on the labels of DATASETS.TEST: its score is "
                "no result of an unsupervised method",
                criterion,
            )
        if criterion and done > 0 and self.path.is_file():
            found = self._read()
            if found.get("criterion") == criterion and found["iterations"] <= done:
                self.record = found

    def _read(self) -> dict[str, Any]:
        try:
            found = read_json(self.path)
            numbers = (found["value"], found["iterations"])
            if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
                raise ContentError("value and iterations are no numbers")
            if not isinstance(found["metrics"], dict):
                raise ContentError("no metrics")
        except (ContentError, LookupError, TypeError) as error:
            raise ConfigError(
                f"'{self.path}' cannot be read ({error}); delete it, and the best checkpoint is "
                "searched anew from this iteration on"
            ) from error
        return dict(found)

    def add(self, metrics: Mapping[str, float], iterations: int) -> None:
        """Compares an evaluation with the best so far.

        Args:
            metrics: metrics of the first test set, and label-free criteria.
            iterations: training iterations of the network.

        Raises:
            ConfigError: the criterion is not among the metrics.
        """
        if not self.criterion or not comm.is_main_process():
            return
        if self.criterion not in metrics:
            raise ConfigError(
                f"EVAL.BEST_ON is '{self.criterion}'; expected one of {', '.join(sorted(metrics))}"
            )
        value = metrics[self.criterion]
        # A mean over no class is not a number: it is neither better nor worse.
        if not math.isfinite(value) or (self.record and not self._is_better(value)):
            return
        self.checkpointer.save(f"model_{self.name}", last=False, iteration=iterations - 1)
        self.record = {
            "criterion": self.criterion,
            "value": value,
            "iterations": iterations,
            "metrics": dict(metrics),
        }
        write_atomically(self.path, (json.dumps(self.record, indent=2) + "\n").encode())
        logger.info("Best so far by %s: %.3f", self.criterion, value)

    def _is_better(self, value: float) -> bool:
        greater = self.criterion not in CRITERIA or CRITERIA[self.criterion].greater_is_better
        return value > self.record["value"] if greater else value < self.record["value"]
