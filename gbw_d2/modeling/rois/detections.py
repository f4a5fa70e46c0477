"""Detections: inference, conversion between views and sizes, merging, and pseudo-labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.modeling.merging import MASK_THRESHOLD, Detections, paint_by_score
from gbw_d2.modeling.protocol import Features, PixelPseudoLabels, Size, View
from gbw_d2.modeling.rois.heads import predict_classes, predict_masks
from gbw_d2.modeling.rois.proposals import predict_anchors, proposals_of
from gbw_d2.modeling.targets.instances import IGNORED, InstanceTargets, stacked_classes

from detectron2.layers import batched_nms, paste_masks_in_image
from detectron2.structures import Boxes, Instances


@torch.no_grad()
def detect(rpn: nn.Module, heads: nn.Module, pyramid: Features, size: Size) -> list[Detections]:
    """Runs Detectron2's RPN, RoI heads and mask head in inference; returns each image's detections.

    Args:
        rpn: in evaluation mode, as its number of proposals depends on it.
        heads: the RoI heads.
        pyramid: float32 maps by name.
        size: (rows, columns) of the images.
    """
    proposals = proposals_of(rpn, predict_anchors(rpn, pyramid), size)
    boxes = [each.proposal_boxes.tensor for each in proposals]
    _, logits, deltas = predict_classes(heads, pyramid, boxes)
    instances, _ = heads.box_predictor.inference((logits.float(), deltas.float()), proposals)
    own = [each.pred_boxes.tensor for each in instances]
    masks = predict_masks(heads, pyramid, own).float()
    classes = torch.cat([each.pred_classes for each in instances])
    channel = classes if masks.shape[1] > 1 else torch.zeros_like(classes)
    chosen = masks[torch.arange(len(masks), device=masks.device), channel].sigmoid()
    parts = chosen.split([len(each) for each in own])
    return [
        Detections(each.pred_boxes.tensor, each.scores, each.pred_classes, part)
        for each, part in zip(instances, parts, strict=True)
    ]


def scaled(found: Detections, size: Size, new_size: Size) -> Detections:
    """Scales boxes to another image size, and clips or drops what is outside."""
    boxes = Boxes(found.boxes.clone())
    boxes.scale(new_size[1] / size[1], new_size[0] / size[0])
    boxes.clip(new_size)
    moved = Detections(boxes.tensor, found.scores, found.classes, found.masks)
    return moved[boxes.nonempty().nonzero()[:, 0]]


def placed(
    found: Detections, place: tuple[slice, slice], view: View, image_size: Size
) -> Detections:
    """Maps the detections of a window of a view to the image.

    Args:
        found: in pixels of the window.
        place: rows and columns of the window in the view.
        view: resized, perhaps mirrored.
        image_size: (rows, columns) of the image.
    """
    boxes, masks = found.boxes, found.masks
    boxes = boxes + boxes.new_tensor([place[1].start, place[0].start] * 2)
    if view.flip:
        x0, y0, x1, y1 = boxes.unbind(1)
        width = view.shown[1]
        boxes, masks = torch.stack([width - x1, y0, width - x0, y1], dim=1), masks.flip(2)
    moved = Detections(boxes, found.scores, found.classes, masks)
    return scaled(moved, view.shown, image_size)


def joined(parts: Sequence[Detections], overlap: float, most: int) -> Detections:
    """Merges detections of several views; of overlapping ones of a class the highest score stays.

    Args:
        parts: in pixels of one image.
        overlap: intersection over union from which on two are one object.
        most: detections that are kept.
    """
    every = Detections(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.classes for part in parts]),
        torch.cat([part.masks for part in parts]),
    )
    return every[batched_nms(every.boxes, every.scores, every.classes, overlap)[:most]]


def instances_of_detections(found: Detections, thing_ids: Sequence[int], size: Size) -> Instances:
    """Returns Detectron2 ``Instances`` with class ids and masks (D, H, W) bool."""
    instances = Instances(tuple(size))
    instances.pred_boxes = Boxes(found.boxes)
    instances.scores = found.scores
    ids = torch.tensor(list(thing_ids), device=found.classes.device)
    instances.pred_classes = ids[found.classes]
    instances.pred_masks = paste_masks_in_image(
        found.masks, instances.pred_boxes, tuple(size), MASK_THRESHOLD
    ).bool()
    return instances


@torch.no_grad()
def pseudo_instances(
    found: Sequence[Detections],
    pseudo_labels: PixelPseudoLabels,
    thing_ids: Sequence[int],
    min_score: float,
    most_hidden: float,
) -> InstanceTargets:
    """Makes instance pseudo-labels of a teacher's confident detections.

    Pixels of a thing class without a confident detection, and pixels where pseudo-labels are not
    used, are ignored, because there may be an object. Everything else is background. Where each
    class has a threshold of its own for pixels, a detection's is ``min_score`` times its class's
    share of the highest of them, so that classes with low confidence also get pseudo-labels (as
    FlexMatch scales its threshold, Zhang et al., NeurIPS 2021).

    Args:
        found: of each image.
        pseudo_labels: of the same images.
        thing_ids: class ids of the things.
        min_score: of a detection, 0..1; of classes with lower thresholds less.
        most_hidden: share of a detection that surer ones may cover, 0..1.
    """
    labels = pseudo_labels.labels
    size = (labels.shape[1], labels.shape[2])
    least = min_score * _relative(pseudo_labels.thresholds, thing_ids)
    sure = [each[(each.scores >= least[each.classes]).nonzero()[:, 0]] for each in found]
    numbers = torch.stack([paint_by_score(each, size, most_hidden)[0] for each in sure])
    things = torch.zeros(int(max(thing_ids)) + 1, dtype=torch.bool)
    things[list(thing_ids)] = True
    things = things.to(labels.device, non_blocking=True)
    is_thing = things[labels.clamp(max=len(things) - 1)] & (labels < len(things))
    unknown = ((numbers == 0) & is_thing) | ~pseudo_labels.kept
    return InstanceTargets(
        torch.where(unknown, IGNORED, numbers), stacked_classes([each.classes for each in sure])
    )


def _relative(thresholds: Tensor, thing_ids: Sequence[int]) -> Tensor:
    """Returns what share of the highest threshold (K,) each thing's is; 1 where all are 0."""
    shares = thresholds / thresholds.max()
    things = torch.tensor(list(thing_ids)).to(thresholds.device, non_blocking=True)
    return torch.where(thresholds.max() > 0, shares, 1.0)[things]
