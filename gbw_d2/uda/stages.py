"""The stages of a run, and what passes between them and a strategy."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Batch = Sequence[dict[str, Any]]

# Entry of a target sample that holds its pseudo-labels: a separate dictionary of label entries, so
# that they are never mistaken for the target's labels.
PSEUDO_LABELS = "pseudo_labels"


@dataclass(frozen=True)
class Stage:
    """A part of a run with its own data, learning-rate schedule and optimiser state.

    Args:
        name: name of the stage, for logs and files.
        first: its first iteration, counted over the whole run.
        last: the iteration after its last one.
        lr_factor: factor of all learning rates of the student in this stage.
    """

    name: str
    first: int
    last: int
    lr_factor: float = 1.0


@dataclass(frozen=True)
class PseudoLabels:
    """Labels of target images that a strategy has written.

    Args:
        folder: folder of ``<image id>.png``, 8-bit train ids, 255 = ignore, at any size.
        image_ids: the target images to draw, each of which has its file.
        class_pixels: (images, K) number of labelled pixels by class id, in the order of
            ``image_ids``.
        instance_folder: folder of ``<image id>.png`` of the same size, colour files as COCO encodes
            segments: (class id + 1) x 1000 + number of the instance, from 1; 0 = none. None if
            there are only semantic labels.
    """

    folder: Path
    image_ids: Sequence[str]
    class_pixels: np.ndarray
    instance_folder: Path | None = None


@dataclass(frozen=True)
class Mining:
    """Chooses crops that show a rare class, in the source and among the pseudo-labels.

    Args:
        probability: probability that a rare class is requested for an image, 0..1.
        first: class ids that are requested if the image shows one of them.
        second: class ids that are requested otherwise.
    """

    probability: float
    first: Sequence[int]
    second: Sequence[int]


@dataclass(frozen=True)
class StageData:
    """The data that a stage draws from source and target, from which the engine builds its loaders.

    Args:
        with_target: whether target images are drawn; if not, a step's target is None.
        source_portion: share of the source images that are drawn, in (0, 1]; a larger share
            includes the images of a smaller one.
        pseudo_labels: pseudo-labels of the target images, which samples hold under
            :data:`PSEUDO_LABELS`.
        mining: crops that are drawn repeatedly until they show a class.
    """

    with_target: bool
    source_portion: float = 1.0
    pseudo_labels: PseudoLabels | None = None
    mining: Mining | None = None


class Batches(Protocol):
    """Batches of known number."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


class TargetImages(Protocol):
    """The target's images as at test time; no sample holds labels or paths of labels."""

    def ids(self) -> Sequence[str]:
        """Returns the ids of all images, the same in every process."""
        ...

    def batches(self, skip: Container[str] = ()) -> Batches:
        """Returns this process's share of the images, one image per batch.

        Args:
            skip: ids of images that are left out and not read.
        """
        ...


class NoImages:
    """A target without images, for strategies that need none."""

    def ids(self) -> Sequence[str]:
        """See :class:`TargetImages`."""
        return ()

    def batches(self, skip: Container[str] = ()) -> Batches:
        """See :class:`TargetImages`."""
        return ()


def _no_positions() -> np.ndarray:
    raise ValueError("the source's labels were not handed in")


@dataclass(frozen=True)
class Context:
    """What a strategy can use when it prepares a stage.

    Args:
        fresh: True if the stage begins, False if it is resumed after its first iteration.
        folder: OUTPUT_DIR, for files that a resumed run needs; all processes can read it.
        is_main: True in the single process that writes files common to all processes.
        target: the target's images.
        source_positions: returns (K, h, w), the number of labelled source pixels by class id and
            position; every process must call it.
    """

    fresh: bool
    folder: Path
    is_main: bool = True
    target: TargetImages = field(default_factory=NoImages)
    source_positions: Callable[[], np.ndarray] = _no_positions


def stage_marks(stages: Sequence[Stage]) -> dict[str, int]:
    """Returns the first iteration of each stage by name, as in :meth:`Strategy.marks`."""
    return {f"stage {stage.name}": stage.first for stage in stages}
