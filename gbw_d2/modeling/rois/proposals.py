"""The region proposal network's losses and proposals (Ren et al. 2015), class-agnostic as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.modeling.protocol import Features, Losses, Size
from gbw_d2.modeling.rois.labelling import box_deltas, draw_rows, match_boxes, without_ignored
from gbw_d2.modeling.targets.instances import IGNORED, InstanceTargets
from gbw_d2.weighting.pixels import compute_dtype

from detectron2.layers import cat
from detectron2.structures import Boxes, Instances

RPN_CLASS_LOSS = "loss_rpn_cls"
RPN_BOX_LOSS = "loss_rpn_loc"


@dataclass(frozen=True)
class AnchorPredictions:
    """The network's predictions on its anchors, by level of the pyramid.

    Attributes:
        anchors: (A_l, 4) boxes.
        logits: (N, A_l) that there is an object.
        deltas: (N, A_l, 4) from anchor to box.
    """

    anchors: list[Boxes]
    logits: list[Tensor]
    deltas: list[Tensor]


def predict_anchors(rpn: nn.Module, pyramid: Features) -> AnchorPredictions:
    """Runs Detectron2's ``RPN`` on the levels that it reads."""
    maps = [pyramid[name] for name in rpn.in_features]
    logits, deltas = rpn.rpn_head(maps)
    # (N, A, h, w) -> (N, h w A), and (N, 4 A, h, w) -> (N, h w A, 4).
    flat = [_precise(level.permute(0, 2, 3, 1).flatten(1)) for level in logits]
    boxes = [
        _precise(level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3))
        for level in deltas
    ]
    return AnchorPredictions(rpn.anchor_generator(maps), flat, boxes)


def _precise(values: Tensor) -> Tensor:
    return values.to(compute_dtype(values))


def proposals_of(rpn: nn.Module, predicted: AnchorPredictions, size: Size) -> list[Instances]:
    """Returns the proposals of each image, by descending score, without gradients."""
    sizes = [size] * len(predicted.logits[0])
    # Detectron2 decodes boxes in float32, and suppression needs scores of the same type.
    logits, deltas = ([v.float() for v in part] for part in (predicted.logits, predicted.deltas))
    return rpn.predict_proposals(predicted.anchors, logits, deltas, sizes)


def proposal_losses(
    rpn: nn.Module,
    predicted: AnchorPredictions,
    targets: InstanceTargets,
    boxes: Tensor,
    there: Tensor,
    generators: Sequence[torch.Generator | None],
) -> Losses:
    """Computes Detectron2's two losses on anchors that are drawn of each image.

    Args:
        rpn: Detectron2's ``RPN``.
        predicted: of its anchors.
        targets: the instances.
        boxes: (N, S, 4) of them.
        there: (N, S) bool, which rows hold an instance.
        generators: one per image.

    Returns:
        Both losses, with the factors of ``MODEL.RPN``.
    """
    anchors = Boxes.cat(predicted.anchors).tensor
    logits, deltas = cat(predicted.logits, dim=1), cat(predicted.deltas, dim=1)
    matched = [
        _anchor_labels(rpn, anchors, numbers == IGNORED, box, here)
        for numbers, box, here in zip(targets.numbers, boxes, there, strict=True)
    ]
    rows, labels = (torch.stack(part) for part in zip(*matched, strict=True))
    drawn = draw_rows(labels, rpn.batch_size_per_image, rpn.positive_fraction, 0, generators)
    # -log of the probability of what is true, as the binary cross-entropy has it.
    classes = (F.softplus(-logits.gather(1, drawn.objects)) * drawn.is_object).sum()
    classes = classes + (F.softplus(logits.gather(1, drawn.rest)) * drawn.is_rest).sum()
    image = torch.arange(len(boxes), device=boxes.device).unsqueeze(1)
    used = drawn.is_object.unsqueeze(2)
    moved = deltas[image, drawn.objects]
    places = moved.sum() * 0
    if boxes.shape[1]:
        own = anchors[drawn.objects]
        # Where a place is not used there may be no box, and its logarithm would be infinite.
        truth = torch.where(used, boxes[image, rows.gather(1, drawn.objects)], own)
        goal = box_deltas(rpn.box2box_transform, own, truth)
        errors = F.smooth_l1_loss(moved, goal, reduction="none", beta=rpn.smooth_l1_beta)
        places = (errors * used).sum()
    normaliser = rpn.batch_size_per_image * len(boxes)
    factors = rpn.loss_weight
    return {
        RPN_CLASS_LOSS: factors[RPN_CLASS_LOSS] * classes / normaliser,
        RPN_BOX_LOSS: factors[RPN_BOX_LOSS] * places / normaliser,
    }


def _anchor_labels(
    rpn: nn.Module, anchors: Tensor, ignored: Tensor, boxes: Tensor, there: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the row of an instance of each anchor, and 1 = object, 0 = background, -1 neither."""
    rows, labels = match_boxes(boxes, there, anchors, rpn.anchor_matcher)
    return rows, without_ignored(labels, 0, ignored, anchors)
