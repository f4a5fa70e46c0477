"""GBWMask2Former: Mask2Former (Cheng et al., CVPR 2022) in plain torch, on any encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import LABEL_SPACES, LabelSpace
from gbw_d2.losses import ClassWeightedQueryClassification, ClassWeightedQueryMask
from gbw_d2.modeling.mask2former.criterion import PointSettings, QueryTargets, query_targets
from gbw_d2.modeling.mask2former.decoder import QueryPredictions
from gbw_d2.modeling.mask2former.head import QUERY_ROWS, build_mask_head
from gbw_d2.modeling.mask2former.matching import LossFactors
from gbw_d2.modeling.mask2former.official_names import renamed_weights
from gbw_d2.modeling.mask2former.resampling import Frame
from gbw_d2.modeling.mask2former.segments import (
    SegmentSettings,
    panoptic_result,
    query_segments,
    semantic_logits,
)
from gbw_d2.modeling.panoptic_segmentor import PanopticSegmentor
from gbw_d2.modeling.plain_losses import plain_losses
from gbw_d2.modeling.protocol import (
    Features,
    HeadSpec,
    Losses,
    Outputs,
    PixelPseudoLabels,
    SegmentWorth,
    SemanticPrediction,
    Size,
    TargetGenerator,
    Targets,
    TaughtSegments,
    View,
)
from gbw_d2.modeling.segmentor import SEMANTIC_LOGITS, result_size
from gbw_d2.modeling.targets.slots import (
    SLOT_CLASSES,
    SLOTS,
    SlotTargetGenerator,
    SlotTargets,
    mixed_slots,
    slots_of_classes,
)
from gbw_d2.modeling.taught import without_unsure
from gbw_d2.modeling.views import merged_maps
from gbw_d2.ops.owners import at_owners
from gbw_d2.weighting import WeightLog

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone

CLASSES, MASKS = "query_cls", "query_mask"


@dataclass(frozen=True)
class _Said:
    """The private part of the outputs: the queries', and whether instances were asked for."""

    queries: QueryPredictions
    size: Size
    instances: bool


@META_ARCH_REGISTRY.register()
class GBWMask2Former(PanopticSegmentor):
    """A network whose queries each predict a class and a mask, trained by bipartite matching.

    With ``MODEL.SEMANTIC_ONLY`` its segments are one per class. Of labels without instances, too,
    each class is one segment.

    Args:
        segment_settings: thresholds of the panoptic inference.
        loss_settings: factors of the losses and of the assignment's costs.
        point_settings: points that masks are learned at.
        weights_per_layer: whether each prediction of the decoder has class weights of its own.
        source_mask_factor: further factor of the mask losses of the source.
        predict_instances: whether there are things to tell apart.
        kwargs: of :class:`PanopticSegmentor`; ``sem_seg_head`` is a ``MaskHead``.
    """

    waits_per_step = 1  # the assignment of each batch with targets is found on the host
    renamed_weights = staticmethod(renamed_weights)
    class_rows = QUERY_ROWS

    @configurable
    def __init__(
        self,
        *,
        segment_settings: SegmentSettings,
        loss_settings: LossFactors,
        point_settings: PointSettings,
        weights_per_layer: bool,
        source_mask_factor: float,
        predict_instances: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.segment_settings = segment_settings
        self.loss_settings = loss_settings
        self.point_settings = point_settings
        self.weights_per_layer = weights_per_layer
        self.source_mask_factor = source_mask_factor
        self.predict_instances = predict_instances
        is_thing = torch.zeros(self.label_space.num_classes, dtype=torch.bool)
        is_thing[list(self.label_space.thing_ids)] = predict_instances
        self.register_buffer("is_thing", is_thing, False)

    @classmethod
    def heads(cls, cfg: Any, space: LabelSpace) -> dict[str, HeadSpec]:
        """Classes and masks of the queries, of all predictions of the decoder or of each."""
        every = tuple(range(space.num_classes))
        settings = cfg.MODEL.MASK2FORMER
        layers = settings.DECODER_LAYERS if settings.WEIGHTS_PER_LAYER else 0
        heads = {}
        for ending in _endings(layers):
            heads[CLASSES + ending] = HeadSpec(ClassWeightedQueryClassification, every, True)
            heads[MASKS + ending] = HeadSpec(
                ClassWeightedQueryMask, every, weights_from=CLASSES + ending
            )
        return heads

    @classmethod
    def instance_targets(cls, cfg: Any, space: LabelSpace) -> TargetGenerator:
        """See :class:`PanopticSegmentor`."""
        return SlotTargetGenerator(space.num_classes, space.thing_ids)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Reads the constructor arguments from a config."""
        space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
        settings = cfg.MODEL.MASK2FORMER
        backbone = build_backbone(cfg)
        heads = cls.heads(cfg, space)
        return {
            "backbone": backbone,
            "sem_seg_head": build_mask_head(settings, backbone.output_shape(), space.num_classes),
            "auxiliary_head": None,
            "label_space": space,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "loss_factors": {
                name: settings.CLASS_WEIGHT if name.startswith(CLASSES) else 1.0 for name in heads
            },
            "image_format": cfg.INPUT.FORMAT,
            "weighted_losses": plain_losses(heads, space.num_classes),
            "segment_settings": SegmentSettings(
                settings.CLASS_THRESHOLD, settings.OVERLAP_THRESHOLD
            ),
            "loss_settings": LossFactors(
                settings.CLASS_WEIGHT,
                settings.MASK_WEIGHT,
                settings.DICE_WEIGHT,
                settings.NO_OBJECT_WEIGHT,
            ),
            "point_settings": PointSettings(
                settings.POINTS, settings.OVERSAMPLE_RATIO, settings.IMPORTANCE_SAMPLE_RATIO
            ),
            "weights_per_layer": settings.WEIGHTS_PER_LAYER,
            "source_mask_factor": settings.SOURCE_MASK_FACTOR,
            "predict_instances": cls.predicts_instances(cfg),
        }

    def semantic_heads(self) -> tuple[str, ...]:
        """The one semantic prediction is what the queries say of each pixel."""
        return (CLASSES,)

    def targets(self, batch: Sequence[Mapping[str, Any]]) -> Targets:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        public = super().targets(batch)
        if SLOTS not in batch[0]:
            return public
        tables = [sample[SLOT_CLASSES] for sample in batch]
        classes = nn.utils.rnn.pad_sequence(tables, batch_first=True, padding_value=255)
        slots = self._stack(batch, SLOTS, 0).long()
        return replace(public, private=SlotTargets(slots, classes.to(slots, non_blocking=True)))

    def outputs(self, features: Features, image_size: Size, instances: bool = True) -> Outputs:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        queries = self.sem_seg_head(features)
        logits = semantic_logits(queries.classes[-1], queries.masks[-1])
        said = _Said(queries, image_size, instances and self.predict_instances)
        return Outputs(SemanticPrediction(logits, image_size), None, said)

    def losses(
        self,
        outputs: Outputs,
        targets: Targets,
        pixel_weights: Tensor | None,
        term: str,
        log: WeightLog | None = None,
    ) -> Losses:
        """Multiplies the mask losses of the source, where MC-PanDA++ asks for it."""
        found = super().losses(outputs, targets, pixel_weights, term, log)
        if term != keys.TERM_SOURCE or self.source_mask_factor == 1:
            return found
        factors = {name: self.source_mask_factor for name in found if MASKS in name}
        return {name: factors.get(name, 1.0) * value for name, value in found.items()}

    def loss_calls(
        self, outputs: Outputs, targets: Targets, pixel_weights: Tensor | None
    ) -> dict[str, Callable[..., Tensor]]:
        """Assigns segments to queries once for all losses."""
        slots = targets.private
        if slots is not None:
            # They bring weights of their own.
            pixel_weights = None
        elif targets.semantic is None:
            return {}
        else:
            slots = slots_of_classes(targets.semantic, self.label_space.num_classes)
        queries = outputs.private.queries
        learned = query_targets(
            queries, slots, pixel_weights, self.loss_settings, self.point_settings
        )
        if not self.weights_per_layer:
            return self._calls_of("", slice(None), queries, learned)
        calls: dict[str, Callable[..., Tensor]] = {}
        for number, ending in enumerate(_endings(len(queries.masks) - 1)):
            calls |= self._calls_of(ending, slice(number, number + 1), queries, learned)
        return calls

    def _calls_of(
        self, ending: str, layers: slice, queries: QueryPredictions, learned: QueryTargets
    ) -> dict[str, Callable[..., Tensor]]:
        assert self.weighted_losses is not None
        labels, rows = learned.labels[layers], learned.row_weights
        factors = self.loss_settings
        return {
            CLASSES + ending: partial(
                self.weighted_losses[CLASSES + ending],
                queries.classes[layers].flatten(0, 2),
                labels.flatten(),
                queries.embeddings[layers].flatten(0, 2),
                no_object=factors.no_object,
                row_weights=None if rows is None else rows[layers].flatten(),
                predictions=len(labels),
            ),
            MASKS + ending: partial(
                self.weighted_losses[MASKS + ending],
                learned.mask_logits[layers].flatten(0, 1),
                learned.mask_truth[layers].flatten(0, 1),
                learned.mask_labels[layers].flatten(),
                learned.importance[layers].flatten(),
                learned.mass,
                (factors.mask, factors.dice),
            ),
        }

    def pseudo_targets(self, outputs: Outputs, pseudo_labels: PixelPseudoLabels) -> Targets:
        """Adds the teacher's segments; a mask counts as the share of its confident pixels."""
        targets = super().pseudo_targets(outputs, pseudo_labels)
        if not outputs.private.instances:
            return targets
        found = self.taught_segments(outputs, None)
        # Void counts as some class, and is none of the slots that are segments.
        known = found.classes.clamp(max=self.label_space.num_classes - 1)
        limits = at_owners(pseudo_labels.thresholds[known], found.owners)
        sure = (found.confidence >= limits) & pseudo_labels.kept
        slots = SlotTargets(found.owners, found.classes, sure, pseudo_labels.kept)
        return replace(targets, private=slots)

    def taught_segments(
        self, outputs: Outputs, shift: Tensor | None, least_score: float | None = None
    ) -> TaughtSegments:
        """See :class:`gbw_d2.modeling.capabilities.SegmentTeacher`; stuff: its class's number."""
        size = outputs.private.size
        found = [
            query_segments(
                # "No object" has no weight that could have moved its logits.
                classes if shift is None else classes + F.pad(shift, (0, 1)),
                masks,
                self._frame(masks, size, size),
                self.is_thing,
                self.segment_settings,
                with_greatest=True,
            )
            for classes, masks in outputs.private.queries.last()
        ]
        parts = zip(*((s.slots, s.classes, s.confidence, s.greatest) for s in found), strict=True)
        taught = TaughtSegments(*map(torch.stack, parts))
        return taught if least_score is None else without_unsure(taught, self.is_thing, least_score)

    def segment_targets(self, segments: TaughtSegments, worth: SegmentWorth) -> Targets:
        """See :class:`gbw_d2.modeling.capabilities.SegmentTeacher`."""
        seen = worth.reliable, worth.usable, worth.no_object, worth.least_area
        slots = SlotTargets(segments.owners, segments.classes, *seen)
        semantic = at_owners(segments.classes, segments.owners)
        return Targets(semantic=semantic, private=slots if self.predict_instances else None)

    def mix_targets(self, mask: Tensor, source: Targets, target: Targets) -> Targets:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        private = None
        if source.private is not None and target.private is not None:
            shared = 1 + self.label_space.num_classes
            private = mixed_slots(mask, source.private, target.private, shared)
        bare = (replace(source, private=None), replace(target, private=None))
        return replace(super().mix_targets(mask, *bare), private=private)

    def pseudo_label_shift(self) -> Tensor | None:
        """Of the classes of the queries, which those of the pixels are made of."""
        losses = self.weighted_losses
        return None if losses is None else losses[CLASSES].scheme.pseudo_label_shift()

    def results(
        self, outputs: Outputs, image_sizes: Sequence[Size], batch: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Returns each image's result at the file's size; masks are upsampled in pieces."""
        rows = zip(
            outputs.semantic.logits, outputs.private.queries.last(), image_sizes, batch, strict=True
        )
        return [
            self._result(logits, queries, outputs.semantic.size, shown, sample)
            for logits, queries, shown, sample in rows
        ]

    def _result(
        self,
        logits: Tensor,
        queries: tuple[Tensor, Tensor],
        padded: Size,
        shown: Size,
        sample: Mapping[str, Any],
    ) -> dict[str, Any]:
        classes, masks = queries
        frame = self._frame(masks, padded, shown, result_size(sample, shown))
        result: dict[str, Any] = {keys.SEM_SEG: frame.whole(logits)}
        return result | self._panoptic(classes, masks, frame)

    def _panoptic(self, classes: Tensor, masks: Tensor, frame: Frame) -> dict[str, Any]:
        if not self.predict_instances:
            return {}
        things, settings = self.label_space.thing_ids, self.segment_settings
        return {keys.PANOPTIC_SEG: panoptic_result(classes, masks, frame, things, settings)}

    @staticmethod
    def _frame(masks: Tensor, padded: Size, shown: Size, size: Size | None = None) -> Frame:
        return Frame((masks.shape[-2], masks.shape[-1]), padded, shown, size or shown)

    def exported(self, outputs: Outputs) -> dict[str, Tensor]:
        """Adds the logits of each query, (N, Q, K + 1), and of its mask, (N, Q, h, w)."""
        queries = outputs.private.queries
        said = {"query_logits": queries.classes[-1], "mask_logits": queries.masks[-1]}
        return {**self.dense_maps(outputs), **said}

    def merge_views(
        self, views: Iterable[View], image_size: Size, sample: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Averages semantic predictions; segments are those of one view.

        Queries of two views have no order in common, so segments are those of the view that is not
        mirrored and nearest to the image's own size.

        Raises:
            UserError: views in windows, of a network that predicts instances.
        """
        seen: list[tuple[tuple[bool, float], View, Outputs]] = []

        def watched(view: View) -> Iterator[tuple[tuple[slice, slice], Outputs]]:
            for place, outputs in view.windows:
                part = tuple(side.stop - side.start for side in place)
                if self.predict_instances and part != tuple(view.shown):
                    raise UserError(
                        f"{type(self).__name__} predicts segments of whole pictures and cannot "
                        "merge windows; leave --window out, or set MODEL.SEMANTIC_ONLY True"
                    )
                rank = view.flip, abs(view.shown[0] / image_size[0] - 1)
                if not seen or rank < seen[0][0]:
                    seen[:] = [(rank, view, outputs)]
                yield place, outputs

        merged = merged_maps(
            (replace(view, windows=watched(view)) for view in views),
            image_size,
            self.dense_maps,
            SEMANTIC_LOGITS,
        )
        _, view, outputs = seen[0]
        ((classes, masks),) = outputs.private.queries.last()
        masks = masks.flip(2) if view.flip else masks
        size = result_size(sample, image_size)
        frame = self._frame(masks, outputs.semantic.size, view.shown, size)
        result = super().result(merged, image_size, sample)
        return result | self._panoptic(classes, masks, frame)


def _endings(layers: int) -> list[str]:
    """Returns the endings of the heads' names: of each prediction, the last one without any."""
    return [*(f"_{number}" for number in range(layers)), ""]
