"""The best checkpoint by the target's labels, for those who ask for it by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.engine.checkpoint import Checkpointer
from gbw_d2.files.atomic import write_atomically

from detectron2.utils import comm

NAME = "model_best_on_target_labels"


class BestOnTargetLabels:
    """Keeps the checkpoint with the greatest value of a metric on the first test set.

    An unsupervised method has no labels to choose by, so such a score is an upper bound of what it
    gives; it is written beside the last iteration's score and never in its place.

    Args:
        metric: name of a metric, greater = better; "" keeps nothing.
        checkpointer: writes the checkpoint.
        folder: OUTPUT_DIR.
        done: iterations behind a resumed run; what a longer one found is forgotten.
    """

    def __init__(self, metric: str, checkpointer: Checkpointer, folder: Path, done: int) -> None:
        self.metric = metric
        self.checkpointer = checkpointer
        self.path = folder / f"{NAME}.json"
        self.record: dict[str, Any] = {}
        if metric and done > 0 and self.path.is_file():
            found = json.loads(self.path.read_text())
            if found["metric"] == metric and found["iterations"] <= done:
                self.record = found

    def add(self, metrics: Mapping[str, float], iterations: int) -> None:
        """Compares an evaluation with the best so far.

        Raises:
            ConfigError: the metric is not among them.
        """
        if not self.metric or not comm.is_main_process():
            return
        if self.metric not in metrics:
            raise ConfigError(
                f"EVAL.BEST_ON_TARGET_LABELS is '{self.metric}'; expected one of "
                f"{', '.join(sorted(metrics))}"
            )
        if self.record and metrics[self.metric] <= self.record["value"]:
            return
        self.checkpointer.save(NAME, last=False, iteration=iterations - 1)
        self.record = {
            "metric": self.metric,
            "value": metrics[self.metric],
            "iterations": iterations,
            "metrics": dict(metrics),
        }
        write_atomically(self.path, (json.dumps(self.record, indent=2) + "\n").encode())
