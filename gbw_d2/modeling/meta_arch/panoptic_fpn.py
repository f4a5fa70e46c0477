"""GBWPanopticFPN: a semantic head and Mask R-CNN's heads on one encoder (Kirillov et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.label_spaces import LabelSpace
from gbw_d2.losses import (
    ClassWeightedRoIBox,
    ClassWeightedRoIClassification,
    ClassWeightedRoIMask,
)
from gbw_d2.modeling.heads.pyramid import build_pyramid
from gbw_d2.modeling.merging import Detections, MergingSettings, merge_detections
from gbw_d2.modeling.panoptic_segmentor import PanopticSegmentor
from gbw_d2.modeling.protocol import (
    Features,
    HeadSpec,
    Losses,
    Outputs,
    PixelPseudoLabels,
    SegmentWorth,
    Size,
    TargetGenerator,
    Targets,
    TaughtSegments,
    View,
)
from gbw_d2.modeling.rois.build import build_roi_branch
from gbw_d2.modeling.rois.detections import (
    detect,
    instances_of_detections,
    joined,
    placed,
    pseudo_instances,
    scaled,
)
from gbw_d2.modeling.rois.heads import RoIPredictions, draw_rois, predict_rois
from gbw_d2.modeling.rois.inputs import DrawnFeatures, RoIInputs
from gbw_d2.modeling.rois.labelling import image_generators
from gbw_d2.modeling.rois.proposals import predict_anchors, proposal_losses, proposals_of
from gbw_d2.modeling.rois.settings import ROI_ROWS
from gbw_d2.modeling.rois.views import RoIViews
from gbw_d2.modeling.segmentor import result_size
from gbw_d2.modeling.targets.instances import (
    IGNORED,
    INSTANCE_CLASSES,
    INSTANCE_NUMBERS,
    InstanceTargetGenerator,
    InstanceTargets,
    stacked_classes,
    taught_instances,
)
from gbw_d2.modeling.taught import large_classes, segments_of_maps
from gbw_d2.ops.owners import at_owners, owner_shares
from gbw_d2.weighting.pixels import compute_dtype

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY

# Heads; their losses are called "loss_<head>".
ROI_CLS = "roi_cls"
ROI_BOX = "roi_box"
ROI_MASK = "roi_mask"


@META_ARCH_REGISTRY.register()
class GBWPanopticFPN(RoIViews, PanopticSegmentor):
    """Semantic logits, and Detectron2's RPN and RoI heads on a feature pyramid, merged.

    The semantic head reads maps of the encoder, of the pyramid, or of both. The RPN has no classes
    and so no class weights; classification, boxes and masks of RoIs are weighted by class. RoIs are
    drawn by the generators of their images; without such ones by torch's own.

    With ``MODEL.SEMANTIC_ONLY`` there is no RoI branch, and it is a semantic network.

    Args:
        proposal_generator: Detectron2's ``RPN``, or None for a semantic-only network.
        roi_heads: Detectron2's ``StandardROIHeads`` with a mask head, or None.
        merging: how detections and semantics become one map.
        pseudo_label_score: score from which on a teacher's detection is an instance, 0..1.
        instance_loss_factor: of all losses of the RPN and the RoI heads.
        predict_instances: also return Detectron2 ``Instances`` in inference.
        semantic_features: names of the maps that the semantic head reads.
        kwargs: of :class:`PanopticSegmentor`.
    """

    # Of one image, without the numbers' checks that losses leave out on a GPU: 4 in Detectron2's
    # proposals, which every further image adds, 5 in each of its two poolers, and one of ours.
    waits_per_step = 15
    class_rows = {**PanopticSegmentor.class_rows, **ROI_ROWS}  # noqa: RUF012
    detectron2_keys = (
        *("MODEL.MASK_ON", "MODEL.PROPOSAL_GENERATOR", "MODEL.FPN"),
        *("MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"),
        *("MODEL.ANCHOR_GENERATOR.NAME", "MODEL.ANCHOR_GENERATOR.OFFSET"),
        *("MODEL.RPN", "MODEL.ROI_BOX_HEAD", "MODEL.ROI_MASK_HEAD", "MODEL.ROI_HEADS"),
        *("MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT", "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH"),
        *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", "TEST.DETECTIONS_PER_IMAGE"),
        "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH",
    )

    @configurable
    def __init__(
        self,
        *,
        proposal_generator: nn.Module | None,
        roi_heads: nn.Module | None,
        merging: MergingSettings,
        pseudo_label_score: float,
        instance_loss_factor: float,
        predict_instances: bool,
        semantic_features: Sequence[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.semantic_features = tuple(semantic_features)
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.merging = merging
        self.pseudo_label_score = pseudo_label_score
        self.instance_loss_factor = instance_loss_factor
        self.predict_instances = predict_instances

    @classmethod
    def heads(cls, cfg: Any, space: LabelSpace) -> dict[str, HeadSpec]:
        """Adds the RoI heads, whose weights belong to the things."""
        heads = super().heads(cfg, space)
        if cls.predicts_instances(cfg):
            things = space.thing_ids
            heads[ROI_CLS] = HeadSpec(ClassWeightedRoIClassification, things, True)
            # Their own gradients depend on the size of a class and not on its error
            # (docs/equations.md 7).
            heads[ROI_BOX] = HeadSpec(ClassWeightedRoIBox, things, weights_from=ROI_CLS)
            heads[ROI_MASK] = HeadSpec(ClassWeightedRoIMask, things)
        return heads

    @classmethod
    def instance_targets(cls, cfg: Any, space: LabelSpace) -> TargetGenerator:
        """See :class:`PanopticSegmentor`."""
        return InstanceTargetGenerator(space.thing_ids, cfg.INPUT.MIN_INSTANCE_AREA)

    @classmethod
    def build_neck(cls, cfg: Any, shape: Mapping[str, ShapeSpec]) -> nn.Module | None:
        """Builds the pyramid; None where only a semantic head is there and reads the encoder."""
        read = set(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)
        if not cls.predicts_instances(cfg) and read <= shape.keys():
            return None
        return build_pyramid(cfg, shape)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Reads the constructor arguments from a config."""
        arguments = super().from_config(cfg)
        rpn = rois = None
        if cls.predicts_instances(cfg):
            shape = arguments["neck"].output_shape()
            rpn, rois = build_roi_branch(cfg, arguments["label_space"], shape)
        fpn = cfg.MODEL.PANOPTIC_FPN
        instances = fpn.INSTANCE_LOSS_WEIGHT
        arguments["loss_factors"] |= {
            ROI_CLS: instances,
            ROI_BOX: instances * cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT,
            ROI_MASK: instances,
        }
        return {
            **arguments,
            "proposal_generator": rpn,
            "roi_heads": rois,
            "merging": MergingSettings(
                rule=fpn.COMBINE.RULE,
                min_score=fpn.COMBINE.INSTANCES_CONFIDENCE_THRESH,
                most_hidden=fpn.COMBINE.OVERLAP_THRESH,
                stuff_area=fpn.COMBINE.STUFF_AREA_LIMIT,
            ),
            "pseudo_label_score": fpn.PSEUDO_LABEL_SCORE,
            "instance_loss_factor": instances,
            "predict_instances": fpn.PREDICT_INSTANCES,
            "semantic_features": cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES,
        }

    def targets(self, batch: Sequence[Mapping[str, Any]]) -> Targets:
        """Adds the numbered instances."""
        targets = super().targets(batch)
        if self.roi_heads is None or INSTANCE_NUMBERS not in batch[0]:
            return targets
        classes = stacked_classes([sample[INSTANCE_CLASSES] for sample in batch])
        instances = InstanceTargets(
            self._stack(batch, INSTANCE_NUMBERS, IGNORED),
            classes.to(self.device, non_blocking=True),
        )
        return replace(targets, private=instances)

    def features(
        self, images: Tensor, draws: Sequence[np.random.Generator] | None = None
    ) -> Features:
        """Keeps the generators with the maps, for the RoIs that ``losses`` draws."""
        features = DrawnFeatures(super().features(images))
        features.draws = draws
        return features

    def outputs(self, features: Features, image_size: Size, instances: bool = True) -> Outputs:
        """Adds the pyramid's maps to the encoder's where a head reads them."""
        branch = instances and self.roi_heads is not None
        draws = features.draws if isinstance(features, DrawnFeatures) else None
        if self.neck is not None and (branch or not self._reads_encoder_alone(features)):
            features = DrawnFeatures({**features, **self.neck(features)})
            features.draws = draws
        return super().outputs(features, image_size, branch)

    def _reads_encoder_alone(self, features: Features) -> bool:
        return set(self.semantic_features) <= features.keys()

    def instance_outputs(self, features: Features, image_size: Size) -> Any:
        """Returns the detections of each image; in training what the RoI heads will need."""
        assert self.neck is not None
        # Not half precision: Detectron2 rounds boxes to the maps' type, in bfloat16 by pixels.
        maps = {name: features[name] for name in self.neck.output_shape()}
        pyramid = {name: each.to(compute_dtype(each)) for name, each in maps.items()}
        if self.training:
            draws = features.draws if isinstance(features, DrawnFeatures) else None
            return RoIInputs(pyramid, image_size, draws)
        return detect(self.proposal_generator, self.roi_heads, pyramid, image_size)

    def losses(
        self,
        outputs: Outputs,
        targets: Targets,
        pixel_weights: Tensor | None,
        term: str,
        log: Any = None,
    ) -> Losses:
        """Adds the RPN's losses, which no class weights."""
        unweighted: Losses = {}
        if isinstance(outputs.private, RoIInputs) and targets.private is not None:
            predicted, unweighted = self._rois(outputs.private, targets.private)
            outputs = replace(outputs, private=predicted)
        return {**super().losses(outputs, targets, pixel_weights, term, log), **unweighted}

    def _rois(self, given: RoIInputs, targets: InstanceTargets) -> tuple[RoIPredictions, Losses]:
        assert self.proposal_generator is not None and self.roi_heads is not None
        boxes, there = targets.boxes()
        generators = image_generators(given.draws, len(boxes), boxes.device)
        anchors = predict_anchors(self.proposal_generator, given.pyramid)
        losses = proposal_losses(
            self.proposal_generator, anchors, targets, boxes, there, generators
        )
        proposals = proposals_of(self.proposal_generator, anchors, given.size)
        drawn = draw_rois(self.roi_heads, proposals, targets, boxes, there, generators)
        predicted = predict_rois(self.roi_heads, given.pyramid, drawn, targets, boxes)
        return predicted, {k: self.instance_loss_factor * v for k, v in losses.items()}

    def loss_calls(
        self, outputs: Outputs, targets: Targets, pixel_weights: Tensor | None
    ) -> dict[str, Callable[..., Tensor]]:
        """Adds the losses of the RoI heads where there are RoIs."""
        calls = super().loss_calls(outputs, targets, pixel_weights)
        rois = outputs.private
        if not isinstance(rois, RoIPredictions):
            return calls
        assert self.weighted_losses is not None and self.roi_heads is not None
        losses = self.weighted_losses
        calls[ROI_CLS] = partial(losses[ROI_CLS], rois.logits, rois.labels, rois.features)
        calls[ROI_BOX] = partial(
            losses[ROI_BOX],
            *(rois.deltas, rois.true_deltas, rois.object_labels, len(rois.labels)),
            self.roi_heads.box_predictor.smooth_l1_beta,
        )
        calls[ROI_MASK] = partial(losses[ROI_MASK], rois.masks, rois.object_labels, rois.true_masks)
        return calls

    def pseudo_targets(self, outputs: Outputs, pseudo_labels: PixelPseudoLabels) -> Targets:
        """Adds the teacher's sure detections as instances; other things are ignore regions."""
        targets = super().pseudo_targets(outputs, pseudo_labels)
        if outputs.private is None:
            return targets
        instances = pseudo_instances(
            outputs.private,
            pseudo_labels,
            self.label_space.thing_ids,
            self.pseudo_label_score,
            self.merging.most_hidden,
        )
        return replace(targets, private=instances)

    def taught_segments(
        self, outputs: Outputs, shift: Tensor | None, least_score: float | None = None
    ) -> TaughtSegments:
        """See :class:`gbw_d2.modeling.capabilities.SegmentTeacher`; the host waits for boxes.

        Things of a ``least_score`` keep their detection's class, whatever the rule of results.
        """
        merging = self.merging
        if least_score is not None:
            merging = replace(merging, rule="score_order", min_score=least_score)
        logits, things = outputs.semantic.dense().float(), self.label_space.thing_ids
        if shift is not None:
            logits = logits + shift.view(1, -1, 1, 1)
        pairs = zip(logits, outputs.private, strict=True)
        results = (merge_detections(*each, things, merging) for each in pairs)
        return segments_of_maps(logits, results, by_score=True)

    def segment_targets(self, segments: TaughtSegments, worth: SegmentWorth) -> Targets:
        """See :class:`gbw_d2.modeling.capabilities.SegmentTeacher`.

        RoI losses know no weight of an instance: one that is less than half reliable is ignored.
        """
        owners, classes = segments.owners, large_classes(segments, worth.least_area)
        wanted = owner_shares(owners, classes.shape[1], worth.reliable) >= 0.5
        instances = taught_instances(owners, classes, wanted, self.label_space.thing_ids)
        return Targets(semantic=at_owners(classes, owners), private=instances)

    def mix_targets(self, mask: Tensor, source: Targets, target: Targets) -> Targets:
        """Pastes instances; what of one is still visible is its mask, and its box follows."""
        maps = replace(source, private=None), replace(target, private=None)
        mixed = super().mix_targets(mask, *maps)
        if source.private is None or target.private is None:
            return mixed
        return replace(mixed, private=source.private.mixed_onto(mask, target.private))

    def results(
        self, outputs: Outputs, image_sizes: Sequence[Size], batch: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Adds ``panoptic_seg``, and ``instances`` where asked for, at the file's size."""
        results = super().results(outputs, image_sizes, batch)
        if outputs.private is not None:
            parts = zip(results, outputs.private, image_sizes, batch, strict=True)
            for result, found, size, sample in parts:
                self._add_instances(result, found, size, sample)
        return results

    def _add_instances(
        self, result: dict[str, Any], found: Detections, size: Size, sample: Mapping[str, Any]
    ) -> None:
        found = scaled(found, size, result_size(sample, size))
        things = self.label_space.thing_ids
        result[keys.PANOPTIC_SEG] = merge_detections(
            result[keys.SEM_SEG], found, things, self.merging
        )
        if self.predict_instances:
            result[keys.INSTANCES] = instances_of_detections(
                found, things, result_size(sample, size)
            )

    @property
    def not_exported(self) -> str:
        """See :class:`DenseSegmentor`."""
        if self.roi_heads is None:
            return ""
        return (
            "the RoI branch (boxes, scores, masks) is not exported: how many boxes non-maximum "
            "suppression keeps depends on the image; semantic_logits alone are in the file"
        )

    def export_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the semantic logits alone; ``not_exported`` says why."""
        normalised = (images - self.pixel_mean) / self.pixel_std
        size = (images.shape[-2], images.shape[-1])
        outputs = self.outputs(self.features(normalised), size, instances=False)
        return self.dense_maps(outputs)

    def merge_views(
        self, views: Iterable[View], image_size: Size, sample: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Averages semantics; of the views' detections non-maximum suppression keeps the surest."""
        if self.roi_heads is None:
            return super().merge_views(views, image_size, sample)
        found: list[Detections] = []

        def recorded(view: View) -> View:
            def windows() -> Iterable[tuple[tuple[slice, slice], Outputs]]:
                for place, outputs in view.windows:
                    found.append(placed(outputs.private[0], place, view, image_size))
                    yield place, outputs

            return replace(view, windows=windows())

        result = super().merge_views(map(recorded, views), image_size, sample)
        predictor = self.roi_heads.box_predictor
        self._add_instances(
            result,
            joined(found, predictor.test_nms_thresh, predictor.test_topk_per_image),
            image_size,
            sample,
        )
        return result
