"""The best checkpoint by a criterion, for those who ask for it by name."""

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

# Entries of results.json, and with "model_" before them names of the files.
ON_LABELS = "best_on_target_labels"
LABEL_FREE = "best_label_free"


class BestCheckpoint:
    """Keeps the checkpoint with the best value of a criterion beside the last one.

    A criterion without labels (:data:`gbw_d2.evaluation.label_free.CRITERIA`) may choose. A metric
    of the first test set may not: an unsupervised method has no labels to choose by, so such a
    score is an upper bound of what it gives, and files, log and results.json call it so. Either is
    written beside the last iteration's score and never in its place.

    Args:
        criterion: name of a criterion or of a metric, where greater is better; "" keeps nothing.
        checkpointer: writes the checkpoint.
        folder: OUTPUT_DIR.
        done: iterations behind a resumed run; what a longer one found is forgotten.
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
                "looked for anew from here on"
            ) from error
        return dict(found)

    def add(self, metrics: Mapping[str, float], iterations: int) -> None:
        """Compares an evaluation with the best so far.

        Args:
            metrics: of the first test set, and the criteria without labels.
            iterations: behind the network.

        Raises:
            ConfigError: the criterion is not among them.
        """
        if not self.criterion or not comm.is_main_process():
            return
        if self.criterion not in metrics:
            raise ConfigError(
                f"EVAL.BEST_ON is '{self.criterion}'; expected one of {', '.join(sorted(metrics))}"
            )
        value = metrics[self.criterion]
        if self.record and not self._is_better(value):
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
