"""What a network may be able to do beside the contract, for strategies that ask for it."""

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
class FoundObject:
    """A thing that a network finds in an image.

    Attributes:
        class_id: of the label space.
        score: 0..1.
        place: rows and columns of the image that its mask can touch.
        mask: (h, w) bool, its pixels there.
    """

    class_id: int
    score: float
    place: tuple[slice, slice]
    mask: Tensor


@dataclass(frozen=True)
class ConsistencySettings:
    """How the proposals of two views of a picture are compared.

    Attributes:
        most: proposals of each picture that are compared.
        class_weight: of the distance of their classes' probabilities.
        mask_weight: of the distance of their masks' probabilities.
    """

    most: int
    class_weight: float
    mask_weight: float


class CrossViewNetwork(Protocol):
    """What a network may be able to do beside the contract: be checked by views."""

    def consistency_losses(
        self, clean: Outputs, view: Outputs, settings: ConsistencySettings
    ) -> Losses:
        """Returns how much instance heads say otherwise of a view; {} without an instance branch.

        Args:
            clean: outputs in training of pictures as they are, without gradient.
            view: of the same pictures, resized.
            settings: what is compared, and weights.
        """
        ...

    def detected(self, batch: Batch) -> list[tuple[Tensor, list[FoundObject] | None]]:
        """Runs inference; returns what there is before semantics and objects are merged.

        Returns:
            Per image logits (K, H, W) and objects at the file's size, the surest object first;
            None without an instance branch.
        """
        ...


class SegmentTeacher(Protocol):
    """What a network may be able to do beside the contract: teach by segments."""

    def taught_segments(
        self, outputs: Outputs, shift: Tensor | None, least_score: float | None = None
    ) -> TaughtSegments:
        """Returns a frozen copy's segments.

        Args:
            outputs: of this copy, with instances.
            shift: the student's ``pseudo_label_shift``.
            least_score: things of a lower score have no class; None: as in the copy's results.
        """
        ...

    def segment_targets(self, segments: TaughtSegments, worth: SegmentWorth) -> Targets:
        """Makes targets of segments; ``mix_targets`` pastes others onto them."""
        ...


def full_worth(segments: TaughtSegments) -> SegmentWorth:
    """Returns the worth of labels, for all segments."""
    weights = torch.ones_like(segments.confidence)
    everywhere = weights.bool()
    return SegmentWorth(everywhere, everywhere, weights[:, 0, 0], 1, weights)
