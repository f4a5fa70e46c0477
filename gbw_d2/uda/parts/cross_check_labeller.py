"""Makes pseudo-labels for CVRN's second stage: class-balanced and cross-checked by detections."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gbw_d2 import keys
from gbw_d2.uda.parts.class_histogram import ConfidenceHistograms
from gbw_d2.uda.parts.cross_check import GREATEST_THRESHOLD, LEAST_SCORE, cross_checked
from gbw_d2.uda.parts.round_labeller import RoundLabeller
from gbw_d2.uda.stages import Batch

# The entry of an image's result that holds its detections, None where the network has none.
_OBJECTS = "objects"


class CrossCheckLabeller(RoundLabeller):
    """A :class:`RoundLabeller` for networks that also detect objects.

    The threshold of a class's instances is the median of the scores that are at least 1/2, limited
    to 0.9.
    """

    rule = "cross_check"

    def results(self, batch: Batch) -> list[dict[str, Any]]:
        """Returns semantic logits and detections of each image."""
        return [
            {keys.SEM_SEG: logits, _OBJECTS: objects}
            for logits, objects in self.model.detected(batch)
        ]

    def thing_scores(self, result: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Returns scores and class ids of the detections whose score is high enough."""
        sure = [each for each in result[_OBJECTS] or () if each.score >= LEAST_SCORE]
        scores = torch.tensor([each.score for each in sure], dtype=torch.float32)
        return scores, torch.tensor([each.class_id for each in sure], dtype=torch.int64)

    def thing_thresholds(self, totals: ConfidenceHistograms) -> Tensor:
        """Returns the threshold of each class's detections."""
        return totals.medians().clamp(LEAST_SCORE, GREATEST_THRESHOLD)

    def labels_and_instances(
        self, result: dict[str, Any], chosen: dict[str, Any], thresholds: Tensor
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns an image's labels and instances, cross-checked against each other."""
        labels, _ = super().labels_and_instances(result, chosen, thresholds)
        if result[_OBJECTS] is None:
            return labels, None
        logits = result[keys.SEM_SEG].float()
        if self.shift is not None:
            logits = logits + self.shift.view(-1, 1, 1)
        corrected, instances = cross_checked(
            logits,
            torch.from_numpy(labels).to(logits.device),
            result[_OBJECTS],
            chosen["instance_thresholds"],
            self.model.label_space.thing_ids,
        )
        kept = instances if self.policy.instance_pseudo_labels else None
        return corrected.cpu().numpy(), kept
