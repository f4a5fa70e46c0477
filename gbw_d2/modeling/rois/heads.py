"""Sampling of RoIs from proposals, and the predictions of Detectron2's RoI heads on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.modeling.protocol import Features
from gbw_d2.modeling.rois.labelling import box_deltas, draw_rows, match_boxes, without_ignored
from gbw_d2.modeling.rois.masks import masks_in_boxes
from gbw_d2.modeling.targets.instances import IGNORED, InstanceTargets

from detectron2.structures import Boxes, Instances


@dataclass(frozen=True)
class DrawnRoIs:
    """The sampled boxes of each image, objects first.

    Attributes:
        boxes: per image (R_i, 4).
        labels: per image (R_i,) int64, place of the class among the things; K = background.
        objects: per image, how many of them are objects, F_i.
        instances: per image (F_i,) int64, row of each object's instance.
        host_instances: the same rows, known to the host.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    objects: list[int]
    instances: list[Tensor]
    host_instances: list[np.ndarray]

    def object_boxes(self) -> list[Tensor]:
        """Returns the boxes (F_i, 4) of objects alone, per image."""
        return [boxes[:count] for boxes, count in zip(self.boxes, self.objects, strict=True)]

    def object_rows(self) -> Tensor:
        """Returns the rows of objects (F,) among the RoIs of all images."""
        starts = torch.tensor([0, *map(len, self.boxes)][:-1]).cumsum(0).tolist()
        rows = [
            torch.arange(start, start + n) for start, n in zip(starts, self.objects, strict=True)
        ]
        return torch.cat(rows).to(self.boxes[0].device, non_blocking=True)


@torch.no_grad()
def draw_rois(
    heads: nn.Module,
    proposals: Sequence[Instances],
    targets: InstanceTargets,
    boxes: Tensor,
    there: Tensor,
    generators: Sequence[torch.Generator | None],
) -> DrawnRoIs:
    """Labels proposals, with the instances' own boxes among them, and draws RoIs of each image.

    Args:
        heads: Detectron2's ``ROIHeads``: its matcher, numbers and fractions.
        proposals: of each image.
        targets: the instances.
        boxes: (N, S, 4) of them.
        there: (N, S) bool, which rows hold an instance.
        generators: one per image.
    """
    background = heads.num_classes
    candidates = [each.proposal_boxes.tensor for each in proposals]
    hidden = [box.new_zeros(len(box), dtype=torch.bool) for box in candidates]
    if heads.proposal_append_gt:
        candidates = [torch.cat(pair) for pair in zip(candidates, boxes, strict=True)]
        # Rows without an instance have no box that could be background.
        hidden = [torch.cat([each, ~here]) for each, here in zip(hidden, there, strict=True)]
    matched = [
        _roi_labels(heads, targets, image, candidates[image], boxes[image], there[image])
        for image in range(len(candidates))
    ]
    rows = pad_sequence([row for row, _ in matched], batch_first=True)
    labels = pad_sequence(
        [label.masked_fill(away, -1) for (_, label), away in zip(matched, hidden, strict=True)],
        batch_first=True,
        padding_value=-1,
    )
    drawn = draw_rows(
        labels, heads.batch_size_per_image, heads.positive_fraction, background, generators
    )
    instances = rows.gather(1, drawn.objects)
    counts = torch.stack([drawn.is_object.sum(1), drawn.is_rest.sum(1)], dim=1)
    # Everything that the host needs about the drawn RoIs, in a single copy.
    known = torch.cat([counts, instances], dim=1).cpu()
    rois = DrawnRoIs([], [], [], [], [])
    for image, (objects, rest) in enumerate(known[:, :2].tolist()):
        chosen = torch.cat([drawn.objects[image, :objects], drawn.rest[image, :rest]])
        rois.boxes.append(candidates[image][chosen])
        rois.labels.append(labels[image, chosen])
        rois.objects.append(objects)
        rois.instances.append(instances[image, :objects])
        rois.host_instances.append(known[image, 2 : 2 + objects].numpy())
    return rois


def _roi_labels(
    heads: nn.Module,
    targets: InstanceTargets,
    image: int,
    candidates: Tensor,
    boxes: Tensor,
    there: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns the row of an instance of each candidate, and its class, K = background, -1 none."""
    rows, found = match_boxes(boxes, there, candidates, heads.proposal_matcher)
    labels = torch.full_like(found, heads.num_classes)
    if targets.classes.shape[1]:
        labels = torch.where(found == 1, targets.classes[image, rows], heads.num_classes)
    ignored = targets.numbers[image] == IGNORED
    labels = without_ignored(labels, heads.num_classes, ignored, candidates)
    return rows, labels.masked_fill(found == -1, -1)


@dataclass(frozen=True)
class RoIPredictions:
    """The predictions on R RoIs of a batch, F of them objects, and their targets.

    Attributes:
        features: (R, D), the input of the class head's classifier.
        logits: (R, K + 1), the background last.
        labels: (R,) int64.
        deltas: (F, 4) of each object's own class, from RoI to box.
        true_deltas: (F, 4).
        object_labels: (F,) int64.
        masks: (F, K, m, m) logits.
        true_masks: (F, m, m) bool.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    deltas: Tensor
    true_deltas: Tensor
    object_labels: Tensor
    masks: Tensor
    true_masks: Tensor


def predict_rois(
    heads: nn.Module, pyramid: Features, rois: DrawnRoIs, targets: InstanceTargets, boxes: Tensor
) -> RoIPredictions:
    """Runs the box and the mask branch of Detectron2's ``StandardROIHeads``.

    Args:
        heads: the RoI heads.
        pyramid: feature maps by name, float32: Detectron2 rounds boxes to the maps' own type,
            which in bfloat16 moves them by pixels.
        rois: which boxes.
        targets: the instances.
        boxes: (N, S, 4) of them.
    """
    features, logits, deltas = predict_classes(heads, pyramid, rois.boxes)
    labels, rows = torch.cat(rois.labels), rois.object_rows()
    object_labels = labels[rows]
    own = rois.object_boxes()
    masks = predict_masks(heads, pyramid, own)
    if masks.shape[1] == 1:
        masks = masks.expand(-1, heads.num_classes, -1, -1)
    truth = torch.cat([boxes[image, row] for image, row in enumerate(rois.instances)])
    true_deltas = deltas.new_zeros(0, 4)
    if len(rows):
        true_deltas = box_deltas(heads.box_predictor.box2box_transform, torch.cat(own), truth)
    return RoIPredictions(
        features,
        logits,
        labels,
        own_deltas(deltas[rows], object_labels),
        true_deltas,
        object_labels,
        masks,
        masks_in_boxes(targets.numbers, own, rois.host_instances, masks.shape[-1]),
    )


def predict_classes(
    heads: nn.Module, pyramid: Features, boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the box branch on boxes (R_i, 4) of each image.

    Returns:
        The classifier's input (R, D), class logits (R, K + 1), deltas (R, 4 K), or (R, 4) where
        boxes do not depend on the class.
    """
    maps = [pyramid[name] for name in heads.box_in_features]
    pooled = heads.box_head(heads.box_pooler(maps, [Boxes(b) for b in boxes])).flatten(1)
    logits, deltas = heads.box_predictor(pooled)
    return pooled, logits, deltas


def predict_masks(heads: nn.Module, pyramid: Features, boxes: Sequence[Tensor]) -> Tensor:
    """Runs the mask branch on boxes (R_i, 4) of each image; returns logits (R, K or 1, m, m)."""
    maps = [pyramid[name] for name in heads.mask_in_features]
    return heads.mask_head.layers(heads.mask_pooler(maps, [Boxes(b) for b in boxes]))


def own_deltas(deltas: Tensor, labels: Tensor) -> Tensor:
    """Picks of deltas (F, 4 K) those of the own class (F,); those (F, 4) of all classes stay."""
    if deltas.shape[1] == 4:
        return deltas
    by_class = deltas.unflatten(1, (-1, 4))
    return by_class.gather(1, labels.view(-1, 1, 1).expand(-1, 1, 4)).squeeze(1)
