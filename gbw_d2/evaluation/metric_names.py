"""The names of an evaluation's metrics, known before the evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from gbw_d2.evaluation.protocols import Protocol

SEMANTIC = ("mIoU", "recall", "precision")
PANOPTIC = tuple(f"{key}{group}" for group in ("", "_th", "_st") for key in ("PQ", "SQ", "RQ"))
AVERAGE_PRECISION = ("AP", "AP50")


def has_instance_ap(protocol: Protocol) -> bool:
    """Whether AP is averaged under a protocol, which must not turn ground truth into void."""
    return not protocol.void_classes and not protocol.is_compatibility


def metric_names(
    protocols: Sequence[Protocol], instances: bool, instance_ap: bool
) -> tuple[str, ...]:
    """Lists the metrics of a test set of which greater is better, so without numbers of classes.

    Args:
        protocols: the test set's protocols.
        instances: whether the network predicts instances.
        instance_ap: EVAL.INSTANCE_AP.
    """
    names: list[str] = []
    for protocol in protocols:
        kinds = (*(PANOPTIC if instances else ()), *SEMANTIC)
        if instances and instance_ap and has_instance_ap(protocol):
            kinds += AVERAGE_PRECISION
        names += [f"{kind}_{protocol.name}" for kind in kinds]
    return tuple(names)
