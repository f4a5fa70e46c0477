"""The region proposal network's losses and proposals (Ren et al. 2015), class-agnostic as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.modeling.protocol import Features, Losses, Size
from gbw_d2.modeling.rois.labelling import draw_rows, match_boxes, without_ignored
from gbw_d2.modeling.targets.instances import IGNORED, InstanceTargets

from detectron2.layers import cat
from detectron2.structures import Boxes, Instances

RPN_CLASS_LOSS = "loss_rpn_cls"
RPN_BOX_LOSS = "loss_rpn_loc"


@dataclass(frozen=True)
class AnchorPredictions:
    """What the network says of its anchors, by level of the pyramid.

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
    flat = [level.permute(0, 2, 3, 1).flatten(1).float() for level in logits]
    boxes = [
        level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3).float() for level in deltas
    ]
    return AnchorPredictions(rpn.anchor_generator(maps), flat, boxes)


def proposals_of(rpn: nn.Module, predicted: AnchorPredictions, size: Size) -> list[Instances]:
    """Returns the proposals of each image, the surest first, without gradients."""
    sizes = [size] * len(predicted.logits[0])
    return rpn.predict_proposals(predicted.anchors, predicted.logits, predicted.deltas, sizes)


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
    scores, wanted, moves, goals = [], [], [], []
    for image, generator in enumerate(generators):
        rows, labels = match_boxes(boxes[image], there[image], anchors, rpn.anchor_matcher)
        labels = without_ignored(labels, 0, targets.numbers[image] == IGNORED, anchors)
        objects, rest = draw_rows(
            labels, rpn.batch_size_per_image, rpn.positive_fraction, 0, generator
        )
        drawn = torch.cat([objects, rest])
        scores.append(logits[image, drawn])
        wanted.append((torch.arange(len(drawn), device=drawn.device) < len(objects)).float())
        moves.append(deltas[image, objects])
        if len(objects):
            goals.append(
                rpn.box2box_transform.get_deltas(anchors[objects], boxes[image, rows[objects]])
            )
    normaliser = rpn.batch_size_per_image * len(generators)
    factors = rpn.loss_weight
    classes = F.binary_cross_entropy_with_logits(
        torch.cat(scores), torch.cat(wanted), reduction="sum"
    )
    moved = torch.cat(moves)
    goal = torch.cat(goals) if goals else moved.detach()
    places = F.smooth_l1_loss(moved, goal, reduction="sum", beta=rpn.smooth_l1_beta)
    return {
        RPN_CLASS_LOSS: factors[RPN_CLASS_LOSS] * classes / normaliser,
        RPN_BOX_LOSS: factors[RPN_BOX_LOSS] * places / normaliser,
    }
