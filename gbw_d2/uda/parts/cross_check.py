"""Inter-task regularisation: detections and semantic pseudo-labels correct each other (CVRN).

Huang et al., Cross-View Regularization for Domain Adaptive Panoptic Segmentation, CVPR 2021;
docs/equations.md 14. The computation follows that of the released code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.modeling.capabilities import FoundObject
from gbw_d2.uda.parts.labelling import INSTANCES_PER_CLASS

# Detections with a lower score are ignored; the classes' thresholds lie between these two numbers.
LEAST_SCORE, GREATEST_THRESHOLD = 0.5, 0.9
# A detection is confirmed if at least this share of its mask's pixels has the label of its class.
AGREEMENT = 0.9
# From this share on, the mask's other pixels may take over the label.
MAJORITY = 0.5


def self_information(p: Tensor) -> Tensor:
    """Computes -p log2 p, in bits; 0 where p is 0."""
    return -torch.xlogy(p, p) / np.log(2.0)


class _Checked:
    """A detection and the semantic prediction under its mask.

    Args:
        found: the detection.
        logits: (K, H, W) of the image.
        normaliser: (H, W) logarithm of the sum of the logits' exponentials.
        labels: (H, W) uint8 semantic pseudo-labels.
        threshold: threshold of the detection's class, 0..1.
    """

    def __init__(
        self,
        found: FoundObject,
        logits: Tensor,
        normaliser: Tensor,
        labels: Tensor,
        threshold: float,
    ) -> None:
        self.found = found
        rows, columns = found.place
        self.probability = (logits[found.class_id, rows, columns] - normaliser[found.place]).exp()
        self.doubt = self_information(self.probability)
        # The detection's self-information, that of its original score.
        self.own_doubt = float(self_information(torch.tensor(found.score, dtype=torch.float64)))
        inside = self.doubt[found.mask]
        agreeing = (labels[found.place][found.mask] == found.class_id).float()
        greatest, self.mean_doubt, self.agreement = torch.stack(
            [inside.max(), inside.mean(), agreeing.mean()]
        ).tolist()
        self.confirmed = self.agreement > AGREEMENT or found.score > threshold
        self.accepted = self.confirmed and self.own_doubt < greatest

    def correct(self, labels: Tensor, predicted: Tensor, is_thing: Tensor) -> None:
        """Changes the labels (H, W) uint8 under the mask where the detection is more certain."""
        found = self.found
        view, seen = labels[found.place], predicted[found.place]
        other_thing = is_thing[view.long()] & (view != found.class_id)
        view[found.mask & other_thing & (self.doubt > self.own_doubt)] = IGNORE_LABEL
        if self.mean_doubt <= self.own_doubt or self.agreement <= MAJORITY:
            return
        group = found.mask & (view != found.class_id) & (seen == found.class_id)
        values = self.probability[group]
        if len(values):
            view[group & (self.probability > values.median())] = found.class_id


@torch.no_grad()
def cross_checked(
    logits: Tensor,
    labels: Tensor,
    objects: Sequence[FoundObject],
    thresholds: Sequence[float],
    thing_ids: Sequence[int],
) -> tuple[Tensor, np.ndarray]:
    """Corrects pseudo-labels by detections, and accepts detections that pseudo-labels confirm.

    A detection of class c with score s is confirmed where s exceeds the class's threshold or most
    of its mask has label c. It is accepted where it is confirmed and more certain than some pixel
    of its mask: -s log2 s < max -p_c log2 p_c. Under the mask of a confirmed detection, labels of
    other things are removed at pixels that are less certain than the detection. Where the mask as a
    whole is less certain and most of it has label c, the more certain half of the other pixels that
    are predicted as c gets label c.

    Args:
        logits: (K, H, W), the logits that the labels were taken from.
        labels: (H, W) uint8 class ids, 255 = none; not changed.
        objects: detections of the image.
        thresholds: of each class, 0..1.
        thing_ids: class ids of the things.

    Returns:
        (H, W) uint8 labels, and (H, W) int32 accepted instances as
        :func:`gbw_d2.uda.parts.labelling.kept_instances` numbers them; the most certain instance is
        on top.
    """
    wide = logits.float()
    normaliser, predicted = wide.logsumexp(0), wide.argmax(0)
    is_thing = torch.zeros(IGNORE_LABEL + 1, dtype=torch.bool, device=labels.device)
    is_thing[list(thing_ids)] = True
    corrected = labels.clone()
    numbers = torch.zeros(labels.shape, dtype=torch.int32, device=labels.device)
    count: Counter[int] = Counter()
    for found in sorted(objects, key=lambda each: -each.score):
        if found.score < LEAST_SCORE or not bool(found.mask.any()):
            continue
        threshold = thresholds[found.class_id]
        checked = _Checked(found, wide, normaliser, labels, threshold)
        if checked.confirmed:
            checked.correct(corrected, predicted, is_thing)
        if checked.accepted and count[found.class_id] < INSTANCES_PER_CLASS - 1:
            count[found.class_id] += 1
            number = (found.class_id + 1) * INSTANCES_PER_CLASS + count[found.class_id]
            view = numbers[found.place]
            view[found.mask & (view == 0)] = number
    return corrected, numbers.cpu().numpy()
