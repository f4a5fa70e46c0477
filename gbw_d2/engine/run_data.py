"""The data of a run: specs, records and class counts, each loaded once per process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.catalog import get_dataset, register_with_detectron2
from gbw_d2.data.formats.files import warn_once
from gbw_d2.data.positions import class_position_counts
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record
from gbw_d2.data.statistics import image_class_counts
from gbw_d2.errors import UserError
from gbw_d2.evaluation.protocols import PARTIAL
from gbw_d2.label_spaces import LABEL_SPACES, LabelSpace
from gbw_d2.weighting import SCHEMES

from detectron2.config import CfgNode
from detectron2.utils import comm


@dataclass(frozen=True)
class Listed:
    """A dataset and its images.

    Args:
        spec: the dataset.
        records: the records of its ``load``, one per image.
    """

    spec: DatasetSpec
    records: list[Record]

    @cached_property
    def whole(self) -> int:
        """Number of images of the whole set, with or without labels."""
        found = len(self.records)
        count = self.spec.count_images
        return found if count is None else max(found, count())

    @property
    def is_partial(self) -> bool:
        """Whether images of the whole set, or their labels, are missing."""
        return len(self.records) < self.whole


class RunData:
    """The datasets that a run reads, listed and counted at first use and then cached.

    All stages of a run, its evaluations and its strategy share one instance.

    Args:
        cfg: the config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg
        self._listed: dict[str, Listed] = {}

    def prepare(self, training: bool) -> None:
        """Generates the toy world if it is used and missing, and fills Detectron2's catalogs.

        Args:
            training: False if only DATASETS.TEST is needed.
        """
        register_with_detectron2()
        names = list(self.cfg.DATASETS.TEST)
        if training:
            names += [*self.cfg.DATASETS.TRAIN, *self.cfg.DATASETS.TARGET]
        prepare = [p for p in (get_dataset(name).prepare for name in names) if p is not None]
        first_process_first(lambda: [p() for p in prepare])

    @property
    def space(self) -> LabelSpace:
        """The label space of the network."""
        return LABEL_SPACES.get(self.cfg.DATASETS.LABEL_SPACE)

    @property
    def source(self) -> Listed:
        """The dataset of DATASETS.TRAIN.

        Raises:
            DatasetError: not exactly one dataset, or an empty one.
        """
        return self._only("TRAIN")

    @property
    def target(self) -> Listed:
        """The dataset of DATASETS.TARGET; errors as in :attr:`source`."""
        return self._only("TARGET")

    def test_set(self, name: str) -> Listed:
        """Returns a dataset of DATASETS.TEST.

        A warning is logged for a partial one, because its metrics are named partial.

        Raises:
            DatasetError: it has no images.
        """
        listed = self._list(name, "DATASETS.TEST")
        if listed.is_partial:
            warn_once(
                f"DATASETS.TEST '{name}' has {len(listed.records)} of {listed.whole} images with "
                f"their labels, so its metrics are named ..{PARTIAL}"
            )
        return listed

    @cached_property
    def source_counts(self) -> np.ndarray:
        """The source's labelled pixels (images, K) int64 by class id; a collective call."""
        spec, records = self.source.spec, self.source.records
        # Counted by the first process; the others then read the counts from disk.
        first_process_first(lambda: image_class_counts(spec, records))
        return image_class_counts(spec, records, label_space=self.space)

    @property
    def class_counts(self) -> torch.Tensor:
        """The source's labelled pixels (K,) int64 by class id; a collective call."""
        return torch.from_numpy(self.source_counts.sum(axis=0))

    @property
    def weighting_counts(self) -> torch.Tensor | None:
        """The :attr:`class_counts` if the scheme of WEIGHTING needs them, else None."""
        needed = SCHEMES.get(self.cfg.WEIGHTING.NAME).needs_class_counts
        return self.class_counts if needed else None

    @cached_property
    def source_positions(self) -> np.ndarray:
        """Source images (K, h, w) int64 with a class at a position; a collective call."""
        spec, records = self.source.spec, self.source.records
        first_process_first(lambda: class_position_counts(spec, records))
        return class_position_counts(spec, records, label_space=self.space)

    def _only(self, key: str) -> Listed:
        names = self.cfg.DATASETS[key]
        if len(names) != 1:
            raise DatasetError(
                f"DATASETS.{key} is {tuple(names)}; expected the name of exactly one dataset"
            )
        return self._list(names[0], f"DATASETS.{key}")

    def _list(self, name: str, key: str) -> Listed:
        if name not in self._listed:
            spec = get_dataset(name)
            records = spec.load()
            if not records:
                raise DatasetError(f"{key}: dataset '{name}' has no images")
            self._listed[name] = Listed(spec, records)
        return self._listed[name]


def first_process_first(work: Callable[[], Any]) -> None:
    """Runs ``work`` in the first process while the others wait; its error stops all processes."""
    error: UserError | None = None
    if comm.is_main_process():
        try:
            work()
        except UserError as caught:
            error = caught
    errors = comm.all_gather(error)
    if errors[0] is not None:
        raise errors[0]
