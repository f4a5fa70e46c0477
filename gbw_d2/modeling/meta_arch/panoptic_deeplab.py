"""GBWPanopticDeepLab: Detectron2's Panoptic-DeepLab heads (Cheng et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.label_spaces import IGNORE_LABEL, LabelSpace
from gbw_d2.losses import ClassWeightedCenterLoss, ClassWeightedOffsetLoss
from gbw_d2.modeling.heads.build import build_center_head
from gbw_d2.modeling.panoptic_segmentor import PanopticSegmentor
from gbw_d2.modeling.postprocessing import PanopticSettings, instances_of, panoptic_from_centers
from gbw_d2.modeling.protocol import (
    Features,
    HeadSpec,
    Outputs,
    PixelPseudoLabels,
    SegmentWorth,
    Size,
    TargetGenerator,
    Targets,
    TaughtSegments,
)
from gbw_d2.modeling.segmentor import result_size, upsampled
from gbw_d2.modeling.targets.centers import (
    CENTER,
    CENTER_WEIGHTS,
    ENTRIES,
    INSTANCE_CLASS,
    OFFSET,
    OFFSET_WEIGHTS,
    CenterTargetGenerator,
    taught_center_targets,
)
from gbw_d2.modeling.taught import large_classes, segments_of_maps
from gbw_d2.ops.owners import at_owners

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY

_WEIGHTS = {CENTER: CENTER_WEIGHTS, OFFSET: OFFSET_WEIGHTS}


@META_ARCH_REGISTRY.register()
class GBWPanopticDeepLab(PanopticSegmentor):
    """Semantic logits, a centre heat map and offsets to the centres, merged into a panoptic map.

    With ``MODEL.SEMANTIC_ONLY`` there is no instance branch, and it is a semantic network.

    Args:
        ins_embed_head: Detectron2's instance branch, or None for a semantic-only network.
        panoptic_settings: thresholds of the post-processing.
        predict_instances: also return Detectron2 ``Instances`` in inference.
        sigma: standard deviation of the Gaussians around a teacher's centres, pixels.
        kwargs: of :class:`PanopticSegmentor`.
    """

    target_entries = ENTRIES
    target_padding: Mapping[str, float] = {INSTANCE_CLASS: IGNORE_LABEL}
    displacements = frozenset({OFFSET})

    @configurable
    def __init__(
        self,
        *,
        ins_embed_head: nn.Module | None,
        panoptic_settings: PanopticSettings,
        predict_instances: bool,
        sigma: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ins_embed_head = ins_embed_head
        self.panoptic_settings = panoptic_settings
        self.predict_instances = predict_instances
        self.sigma = sigma

    @classmethod
    def heads(cls, cfg: Any, space: LabelSpace) -> dict[str, HeadSpec]:
        """Adds the centre and offset heads, whose weights belong to the things."""
        heads = super().heads(cfg, space)
        if cls.predicts_instances(cfg):
            heads[CENTER] = HeadSpec(ClassWeightedCenterLoss, space.thing_ids)
            # Their own gradients depend on the size of a class and not on its error
            # (docs/equations.md 7).
            heads[OFFSET] = HeadSpec(ClassWeightedOffsetLoss, space.thing_ids, weights_from=CENTER)
        return heads

    @classmethod
    def instance_targets(cls, cfg: Any, space: LabelSpace) -> TargetGenerator:
        """See :class:`PanopticSegmentor`."""
        return CenterTargetGenerator(space.thing_ids, cfg.INPUT.GAUSSIAN_SIGMA)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Reads the constructor arguments from a config."""
        arguments = super().from_config(cfg)
        shape = arguments["backbone"].output_shape()
        head, postprocessing = cfg.MODEL.INS_EMBED_HEAD, cfg.MODEL.PANOPTIC_DEEPLAB
        arguments["loss_factors"] |= {
            CENTER: head.CENTER_LOSS_WEIGHT,
            OFFSET: head.OFFSET_LOSS_WEIGHT,
        }
        branch = build_center_head(cfg, shape) if cls.predicts_instances(cfg) else None
        return {
            **arguments,
            "ins_embed_head": branch,
            "panoptic_settings": PanopticSettings(
                center_threshold=postprocessing.CENTER_THRESHOLD,
                nms_kernel=postprocessing.NMS_KERNEL,
                top_k=postprocessing.TOP_K_INSTANCE,
                stuff_area=postprocessing.STUFF_AREA,
            ),
            "predict_instances": postprocessing.PREDICT_INSTANCES,
            "sigma": cfg.INPUT.GAUSSIAN_SIGMA,
        }

    def instance_outputs(self, features: Features, image_size: Size) -> dict[str, Tensor] | None:
        """Returns the heat map (N, 1, H, W) and offsets (N, 2, H, W), (dy, dx) in input pixels."""
        if self.ins_embed_head is None:
            return None
        center, offset = self.ins_embed_head.layers(features)
        # The branch predicts in units of its stride, like Detectron2's.
        stride = self.ins_embed_head.common_stride
        return {
            CENTER: upsampled(center, image_size),
            OFFSET: upsampled(offset, image_size) * stride,
        }

    def loss_calls(
        self, outputs: Outputs, targets: Targets, pixel_weights: Tensor | None
    ) -> dict[str, Callable[..., Tensor]]:
        """Adds the centre and offset losses where their targets are present."""
        calls = super().loss_calls(outputs, targets, pixel_weights)
        if outputs.private is None or targets.private is None:
            return calls
        assert self.weighted_losses is not None
        predicted, wanted = outputs.private, targets.private
        for head, weights in _WEIGHTS.items():
            calls[head] = partial(
                self.weighted_losses[head],
                predicted[head],
                wanted[head],
                wanted[weights],
                wanted[INSTANCE_CLASS],
            )
        return calls

    def pseudo_targets(self, outputs: Outputs, pseudo_labels: PixelPseudoLabels) -> Targets:
        """Adds the teacher's centres and offsets as targets, weighted by its confidence."""
        targets = super().pseudo_targets(outputs, pseudo_labels)
        if outputs.private is None:
            return targets
        labels, confident = pseudo_labels.labels, pseudo_labels.confident
        things = self._is_thing(labels.device)[labels]
        instances = {
            CENTER: outputs.private[CENTER].squeeze(1).float().clamp(0, 1),
            CENTER_WEIGHTS: confident.float(),
            OFFSET: outputs.private[OFFSET].float(),
            OFFSET_WEIGHTS: (confident & things).float(),
            INSTANCE_CLASS: torch.where(things, labels, IGNORE_LABEL),
        }
        return Targets(semantic=targets.semantic, private=instances)

    def _is_thing(self, device: torch.device) -> Tensor:
        is_thing = torch.zeros(self.label_space.num_classes, dtype=torch.bool)
        is_thing[list(self.label_space.thing_ids)] = True
        return is_thing.to(device, non_blocking=True)

    def taught_segments(
        self, outputs: Outputs, shift: Tensor | None, least_score: float | None = None
    ) -> TaughtSegments:
        """See :class:`gbw_d2.modeling.capabilities.SegmentTeacher`; waits for the centres."""
        logits, centers = outputs.semantic.dense().float(), outputs.private
        if shift is not None:
            logits = logits + shift.view(1, -1, 1, 1)
        things, settings = self.label_space.thing_ids, self.panoptic_settings
        results = (
            panoptic_from_centers(*each, thing_ids=things, settings=settings)
            for each in zip(logits, centers[CENTER], centers[OFFSET], strict=True)
        )
        return segments_of_maps(logits, results, False, least_score)

    def segment_targets(self, segments: TaughtSegments, worth: SegmentWorth) -> Targets:
        """See :class:`gbw_d2.modeling.capabilities.SegmentTeacher`."""
        owners, classes = segments.owners, large_classes(segments, worth.least_area)
        is_thing = self._is_thing(owners.device)
        private = taught_center_targets(owners, classes, worth.pixels, is_thing, self.sigma)
        return Targets(semantic=at_owners(classes, owners), private=private)

    def dense_maps(self, outputs: Outputs) -> dict[str, Tensor]:
        """Adds the heat map and the offsets."""
        return {**super().dense_maps(outputs), **(outputs.private or {})}

    def result(
        self, maps: Mapping[str, Tensor], image_size: Size, sample: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Adds ``panoptic_seg``, and ``instances`` where asked for, at the file's size."""
        result = super().result(maps, image_size, sample)
        if self.ins_embed_head is None:
            return result
        rows, columns = result_size(sample, image_size)
        center = _resized(maps[CENTER], image_size, (rows, columns))
        offset = _resized(maps[OFFSET], image_size, (rows, columns))
        # Offsets are lengths and scale with the image.
        offset = offset * offset.new_tensor([rows / image_size[0], columns / image_size[1]]).view(
            2, 1, 1
        )
        panoptic = panoptic_from_centers(
            result[keys.SEM_SEG],
            center,
            offset,
            thing_ids=self.label_space.thing_ids,
            settings=self.panoptic_settings,
        )
        result[keys.PANOPTIC_SEG] = panoptic
        if self.predict_instances:
            result[keys.INSTANCES] = instances_of(*panoptic)
        return result


def _resized(maps: Tensor, image_size: Size, size: Size) -> Tensor:
    # The batch's padding is cropped first, because it is not part of the image.
    cut = maps[:, : image_size[0], : image_size[1]]
    return cut if image_size == size else upsampled(cut[None], size)[0]
