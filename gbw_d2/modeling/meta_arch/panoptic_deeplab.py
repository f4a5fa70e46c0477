"""GBWPanopticDeepLab: Detectron2's Panoptic-DeepLab heads (Cheng et al., CVPR 2020)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.losses import plain_instance_losses
from gbw_d2.modeling.instance_criterion import InstanceCriterion
from gbw_d2.modeling.postprocessing import PanopticSettings, instances_of, panoptic_from_centers
from gbw_d2.modeling.protocol import Features, Losses, Outputs, Targets
from gbw_d2.modeling.segmentor import DenseSegmentor, result_size, upsampled
from gbw_d2.modeling.semantic_criterion import SemanticCriterion

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.projects.panoptic_deeplab import build_ins_embed_branch


@META_ARCH_REGISTRY.register()
class GBWPanopticDeepLab(DenseSegmentor):
    """Semantic logits, a centre heat map and offsets to the centres, merged into a panoptic map.

    With ``MODEL.SEMANTIC_ONLY`` there is no instance branch, and it is a semantic network.

    Args:
        ins_embed_head: Detectron2's instance branch, or None for a semantic-only network.
        center_loss_weight: factor of the heat map's squared error.
        offset_loss_weight: factor of the offsets' absolute error.
        panoptic_settings: thresholds of the post-processing.
        predict_instances: also return Detectron2 ``Instances`` in inference.
        kwargs: of :class:`DenseSegmentor`.
    """

    weighted_heads = (*DenseSegmentor.weighted_heads, "center", "offset")

    @configurable
    def __init__(
        self,
        *,
        ins_embed_head: nn.Module | None,
        center_loss_weight: float,
        offset_loss_weight: float,
        panoptic_settings: PanopticSettings,
        predict_instances: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ins_embed_head = ins_embed_head
        self.center_loss_weight = center_loss_weight
        self.offset_loss_weight = offset_loss_weight
        self.panoptic_settings = panoptic_settings
        self.predict_instances = predict_instances

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Reads the constructor arguments from a config."""
        arguments = super().from_config(cfg)
        shape = arguments["backbone"].output_shape()
        postprocessing = cfg.MODEL.PANOPTIC_DEEPLAB
        arguments |= {
            "ins_embed_head": None
            if cfg.MODEL.SEMANTIC_ONLY
            else build_ins_embed_branch(cfg, shape),
            "center_loss_weight": cfg.MODEL.INS_EMBED_HEAD.CENTER_LOSS_WEIGHT,
            "offset_loss_weight": cfg.MODEL.INS_EMBED_HEAD.OFFSET_LOSS_WEIGHT,
            "panoptic_settings": PanopticSettings(
                center_threshold=postprocessing.CENTER_THRESHOLD,
                nms_kernel=postprocessing.NMS_KERNEL,
                top_k=postprocessing.TOP_K_INSTANCE,
                stuff_area=postprocessing.STUFF_AREA,
            ),
            "predict_instances": postprocessing.PREDICT_INSTANCES,
        }
        return arguments

    def plain_criteria(self) -> dict[str, SemanticCriterion | InstanceCriterion]:
        """Returns the loss without class weights of each head of ``weighted_heads``."""
        space = self.label_space
        # A label space without things has no losses of instances.
        things = (
            plain_instance_losses(space.thing_ids, space.num_classes) if space.thing_ids else {}
        )
        return {**super().plain_criteria(), **things}

    def target_keys(self) -> tuple[str, ...]:
        """Names of the label entries that this architecture has losses for."""
        if self.ins_embed_head is None:
            return super().target_keys()
        return (
            *super().target_keys(),
            keys.CENTER,
            keys.CENTER_WEIGHTS,
            keys.OFFSET,
            keys.OFFSET_WEIGHTS,
            keys.INSTANCE_CLASS,
        )

    def outputs(self, features: Features, image_size: tuple[int, int]) -> Outputs:
        """Adds the heat map (N, 1, H, W) and offsets (N, 2, H, W), (dy, dx) in input pixels."""
        outputs = super().outputs(features, image_size)
        if self.ins_embed_head is not None:
            center, offset = self.ins_embed_head.layers(features)
            outputs[keys.CENTER] = upsampled(center, image_size)
            # The branch predicts in units of its stride, as Detectron2's does.
            stride = self.ins_embed_head.common_stride
            outputs[keys.OFFSET] = upsampled(offset, image_size) * stride
        return outputs

    def losses(
        self, outputs: Outputs, targets: Targets, pixel_weights: Tensor | None, term: str
    ) -> Losses:
        """Adds the centre and offset losses where their targets are present."""
        losses = super().losses(outputs, targets, pixel_weights, term)
        if self.ins_embed_head is not None and keys.CENTER in targets:
            # After the semantic loss and in this order: offsets may use the others' weights.
            losses[keys.LOSS_CENTER] = self.center_loss_weight * self.criteria["center"](
                outputs[keys.CENTER],
                targets[keys.CENTER],
                targets[keys.CENTER_WEIGHTS],
                targets[keys.INSTANCE_CLASS],
                term=term,
            )
            losses[keys.LOSS_OFFSET] = self.offset_loss_weight * self.criteria["offset"](
                outputs[keys.OFFSET],
                targets[keys.OFFSET],
                targets[keys.OFFSET_WEIGHTS],
                targets[keys.INSTANCE_CLASS],
                term=term,
            )
        return losses

    def result(
        self, outputs: Outputs, image_size: tuple[int, int], sample: dict[str, Any]
    ) -> dict[str, Any]:
        """Adds ``panoptic_seg``, and ``instances`` where asked for, at the file's size."""
        result = super().result(outputs, image_size, sample)
        if self.ins_embed_head is None:
            return result
        rows, columns = result_size(sample, image_size)
        center = _resized(outputs[keys.CENTER], image_size, (rows, columns))
        offset = _resized(outputs[keys.OFFSET], image_size, (rows, columns))
        # Offsets are lengths: they grow with the picture.
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


def _resized(maps: Tensor, image_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    # The padding of the batch is cut off first: it is no part of the picture.
    cut = maps[:, : image_size[0], : image_size[1]]
    return cut if image_size == size else upsampled(cut[None], size)[0]
