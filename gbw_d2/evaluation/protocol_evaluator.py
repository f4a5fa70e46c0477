"""The base class of evaluators: the loop over images, gathering, and names of metrics."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.errors import UserError
from gbw_d2.evaluation.protocols import Protocol
from gbw_d2.keys import FILE_NAME, IMAGE_ID
from gbw_d2.label_spaces import LabelSpace, Scoring
from gbw_d2.results.writer import PerClass, write_csv

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

Record = Mapping[str, Any]


class ProtocolEvaluator(DatasetEvaluator):
    """The base class of both evaluators: loop over images, gathering, metrics and CSV per image."""

    task = ""

    def __init__(
        self, scoring: Scoring, protocols: Sequence[Protocol], output_dir: str | Path | None
    ) -> None:
        if not protocols:
            raise ValueError("no protocol to score by")
        self.space: LabelSpace = scoring.space
        self.table = scoring.prediction
        self.network = scoring.network
        self.protocols: tuple[Protocol, ...] = tuple(protocols)
        if self.protocols[0].is_compatibility:
            raise UserError(
                f"protocol {self.protocols[0].name} is for comparison with published tables; name "
                "another one before it"
            )
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.per_class: PerClass = {}
        self.per_image: list[dict[str, Any]] = []

    def process(self, inputs: Iterable[Record], outputs: Iterable[Mapping[str, Any]]) -> None:
        """Evaluates a batch.

        Args:
            inputs: records of the images, as the dataset's ``load`` made them.
            outputs: the model's results for them.

        Raises:
            ValueError: prediction and ground truth do not fit; the message names the file.
            UserError: the ground truth cannot be read.
        """
        for record, output in zip(inputs, outputs, strict=True):
            name = str(record[FILE_NAME])
            try:
                scores = self._score_image(record, output)
            except UserError:
                # The error of an unreadable label already names its file.
                raise
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            row = {FILE_NAME: name, IMAGE_ID: record.get(IMAGE_ID)}
            self.per_image.append(row | scores)

    def evaluate(self) -> OrderedDict[str, float] | None:
        """Gathers the counts of all processes and averages over classes.

        Returns:
            Metrics by name, 0..100, named with their protocol; a mean over no class is NaN, because
            Detectron2's hooks accept only floats. None on all processes except the first.

        Raises:
            ValueError: no image was evaluated, or one was evaluated twice.
        """
        gathered = comm.gather((self._states(), self.per_image))
        if not comm.is_main_process():
            return None
        self.per_image = [row for _, rows in gathered for row in rows]
        names = [row[FILE_NAME] for row in self.per_image]
        if not names:
            raise UserError(f"{self.task} evaluation saw no image; is the test set empty?")
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise ValueError(f"{twice} was scored more than once; the test sampler repeats images")
        self._merge([states for states, _ in gathered])
        metrics = self._average()
        if self.output_dir is not None:
            write_csv(self.output_dir / f"{self.task}_per_image.csv", self.per_image)
        return OrderedDict((k, math.nan if v is None else float(v)) for k, v in metrics.items())

    @abstractmethod
    def _score_image(self, record: Record, output: Mapping[str, Any]) -> dict[str, Any]:
        """Adds one image and returns its scores."""

    @abstractmethod
    def _states(self) -> Any:
        """Returns the counts so far."""

    @abstractmethod
    def _merge(self, states: list[Any]) -> None:
        """Replaces the counts by those of all processes."""

    @abstractmethod
    def _average(self) -> dict[str, float | None]:
        """Fills ``per_class`` and returns the metrics."""
