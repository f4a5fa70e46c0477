"""Consistency losses between two views, and unmerged predictions, of networks with RoI heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.label_spaces import LabelSpace
from gbw_d2.modeling.capabilities import ConsistencySettings, FoundObject
from gbw_d2.modeling.merging import MASK_THRESHOLD, Detections
from gbw_d2.modeling.protocol import (
    Losses,
    Outputs,
    Size,
)
from gbw_d2.modeling.rois.detections import scaled
from gbw_d2.modeling.rois.heads import predict_classes, predict_masks
from gbw_d2.modeling.rois.masks import pasted_mask, pasted_region
from gbw_d2.modeling.rois.proposals import predict_anchors, proposals_of
from gbw_d2.modeling.segmentor import DenseSegmentor, result_size
from gbw_d2.weighting.distributed import all_reduce_sum, world_size

# Names of the losses on distances between proposals.
_CLASSES, _MASKS = "loss_roi_cls", "loss_roi_mask"


class RoIViews(DenseSegmentor):
    """The optional capabilities of ``GBWPanopticFPN``; see gbw_d2/modeling/capabilities.py."""

    label_space: LabelSpace
    proposal_generator: nn.Module | None
    roi_heads: nn.Module | None

    def consistency_losses(
        self, clean: Outputs, view: Outputs, settings: ConsistencySettings
    ) -> Losses:
        """See :class:`gbw_d2.modeling.capabilities.CrossViewNetwork`.

        The proposals are those of the pictures as they are; their boxes are resized for the view.
        """
        given, seen, heads = clean.private, view.private, self.roi_heads
        if heads is None or self.proposal_generator is None:
            return {}
        with torch.no_grad():
            anchors = predict_anchors(self.proposal_generator, given.pyramid)
            proposals = proposals_of(self.proposal_generator, anchors, given.size)
            boxes = [each.proposal_boxes.tensor[: settings.most] for each in proposals]
            known = _said(heads, given.pyramid, boxes)
        rows, columns = (new / old for new, old in zip(seen.size, given.size, strict=True))
        said = _said(heads, seen.pyramid, [_resized(each, rows, columns) for each in boxes])
        classes, masks = (_distance(a, b) for a, b in zip(said, known, strict=True))
        return {_CLASSES: settings.class_weight * classes, _MASKS: settings.mask_weight * masks}

    @torch.no_grad()
    def detected(
        self, batch: Sequence[Mapping[str, Any]]
    ) -> list[tuple[Tensor, list[FoundObject] | None]]:
        """See :class:`gbw_d2.modeling.capabilities.CrossViewNetwork`."""
        found = []
        for sample in batch:
            images = self.images([sample])
            outputs = self.outputs(self.features(images), (images.shape[-2], images.shape[-1]))
            shown = (sample[keys.IMAGE].shape[-2], sample[keys.IMAGE].shape[-1])
            # The semantic result alone: nothing is merged.
            logits = DenseSegmentor.results(self, outputs, [shown], [sample])[0][keys.SEM_SEG]
            objects = None
            if outputs.private is not None:
                size = result_size(sample, shown)
                things = self.label_space.thing_ids
                objects = _objects(scaled(outputs.private[0], shown, size), things, size)
            found.append((logits, objects))
        return found


def _distance(said: Tensor, known: Tensor) -> Tensor:
    """Returns the mean absolute difference over all processes' proposals; all must call it."""
    number = torch.full((), float(known.numel()), device=known.device)
    mean = all_reduce_sum(number) / world_size()
    return (said - known).abs().sum() / mean.clamp(min=1 / world_size())


def _resized(boxes: Tensor, rows: float, columns: float) -> Tensor:
    # Two multiplications of slices need no copy from the host.
    return torch.stack([boxes[:, 0::2] * columns, boxes[:, 1::2] * rows], dim=2).flatten(1)


def _said(
    heads: nn.Module, pyramid: Mapping[str, Tensor], boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Returns probabilities (R, K + 1) of classes and (R, K or 1, m, m) of masks."""
    _, logits, _ = predict_classes(heads, dict(pyramid), boxes)
    masks = predict_masks(heads, dict(pyramid), boxes)
    return logits.float().softmax(1), masks.float().sigmoid()


def _objects(found: Detections, thing_ids: Sequence[int], size: Size) -> list[FoundObject]:
    order = torch.argsort(-found.scores, stable=True)
    rows = zip(
        order.tolist(),
        found.boxes[order].tolist(),
        found.scores[order].tolist(),
        found.classes[order].tolist(),
        strict=True,
    )
    objects = []
    for row, box, score, place_of_class in rows:
        place = pasted_region(box, size)
        mask = pasted_mask(found.masks[row], box, place, MASK_THRESHOLD)
        objects.append(FoundObject(thing_ids[place_of_class], score, place, mask))
    return objects
