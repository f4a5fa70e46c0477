"""The base class of architectures whose instance branch ``MODEL.SEMANTIC_ONLY`` removes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from gbw_d2.label_spaces import LabelSpace
from gbw_d2.modeling.protocol import TargetGenerator
from gbw_d2.modeling.segmentor import DenseSegmentor
from gbw_d2.modeling.targets.none import no_targets


class PanopticSegmentor(DenseSegmentor):
    """A :class:`DenseSegmentor` that predicts instances, unless ``MODEL.SEMANTIC_ONLY`` is set."""

    @classmethod
    def predicts_instances(cls, cfg: Any) -> bool:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return not cfg.MODEL.SEMANTIC_ONLY

    @classmethod
    def target_generator(cls, cfg: Any, space: LabelSpace) -> TargetGenerator:
        """See :class:`gbw_d2.modeling.protocol.SegmentationModel`."""
        return cls.instance_targets(cfg, space) if cls.predicts_instances(cfg) else no_targets

    @classmethod
    @abstractmethod
    def instance_targets(cls, cfg: Any, space: LabelSpace) -> TargetGenerator:
        """Returns the generator of the instance branch's label entries.

        Args:
            cfg: the config.
            space: the label space of the network.
        """
