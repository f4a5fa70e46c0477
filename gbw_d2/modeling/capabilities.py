"""Optional interfaces of networks, which some strategies and the transfer of weights require."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gbw_d2.modeling.protocol import (
    Batch,
    Losses,
    Outputs,
    SegmentWorth,
    Targets,
    TaughtSegments,
)


@dataclass(frozen=True)
class ClassRows:
    """Which rows of a classifier's weight and bias belong to which class.

    A network names its classifiers in ``class_rows``: parts of their parameters' names, of which
    the longest counts.

    Attributes:
        things: whether there are rows of the things alone, else of all classes; in class order.
        each: rows of each class, one after the other.
        more: further rows at the end, such as the background's.
    """

    things: bool = False
    each: int = 1
    more: int = 0


@dataclass(frozen=True)
class FoundObject:
    """A thing that a network finds in an image.

    Attributes:
        class_id: class id of the label space.
        score: 0..1.
        place: rows and columns of the image that contain its mask.
        mask: (h, w) bool, its pixels within these rows and columns.
    """

    class_id: int
    score: float
    place: tuple[slice, slice]
    mask: Tensor


@dataclass(frozen=True)
class ConsistencySettings:
    """Settings of the comparison of proposals between two views of an image.

    Attributes:
        most: maximum number of proposals to compare per image.
        class_weight: weight of the distance between class probabilities.
        mask_weight: weight of the distance between mask probabilities.
    """

    most: int
    class_weight: float
    mask_weight: float


class CrossViewNetwork(Protocol):
    """Optional interface of networks whose detections can be compared between views."""

    def consistency_losses(
        self, clean: Outputs, view: Outputs, settings: ConsistencySettings
    ) -> Losses:
        """Returns the distances of the instance heads' predictions on a view, or {} without any.

        Args:
            clean: training outputs on the original images, without gradient.
            view: training outputs on the same images, resized.
            settings: number of proposals, and weights.
        """
        ...

    def detected(self, batch: Batch) -> list[tuple[Tensor, list[FoundObject] | None]]:
        """Runs inference without merging semantic segmentation and objects.

        Returns:
            Per image, logits (K, H, W) and objects at the file's size, by descending score; None
            without an instance branch.
        """
        ...


class SegmentTeacher(Protocol):
    """Optional interface of networks whose segments can serve as pseudo-labels."""

    def taught_segments(
        self, outputs: Outputs, shift: Tensor | None, least_score: float | None = None
    ) -> TaughtSegments:
        """Returns the segments predicted by a frozen copy (the teacher).

        Args:
            outputs: outputs of this copy, with instances.
            shift: the student's ``pseudo_label_shift``.
            least_score: things of a lower score get no class; None for the rule of the copy's
                results.
        """
        ...

    def segment_targets(self, segments: TaughtSegments, worth: SegmentWorth) -> Targets:
        """Makes targets of segments, onto which ``mix_targets`` can paste others."""
        ...


def full_worth(segments: TaughtSegments) -> SegmentWorth:
    """Returns the worth that true labels have, for all segments."""
    weights = torch.ones_like(segments.confidence)
    everywhere = weights.bool()
    return SegmentWorth(everywhere, everywhere, weights[:, 0, 0], 1, weights)
