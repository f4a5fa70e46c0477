"""What architectures with an instance branch share: ``MODEL.SEMANTIC_ONLY`` leaves it out."""

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
        """Returns what makes the label entries of the instance branch.

        Args:
            cfg: the config.
            space: the classes that the network learns.
        """
