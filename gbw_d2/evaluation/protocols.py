"""Which classes a score averages, and what happens to ground truth outside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gbw_d2.label_spaces import TRAIN_IDS_13, TRAIN_IDS_16, TRAIN_IDS_19
from gbw_d2.registry import Registry

# Terrain, truck and train: SYNTHIA has none, Cityscapes does.
NOT_IN_SYNTHIA: tuple[int, ...] = tuple(t for t in TRAIN_IDS_19 if t not in TRAIN_IDS_16)


@dataclass(frozen=True)
class Protocol:
    """How per-class scores become one number; see docs/pq_and_miou.md.

    Args:
        name: the suffix of its metrics (``PQ_16_void``).
        train_ids: train ids of the classes that are averaged.
        void_train_ids: train ids whose ground truth becomes void, so that predictions there are
            forgiven. Ground truth of any other class outside ``train_ids`` stays, and a prediction
            there is a false positive.
        void_is_road: the prediction's void pixels are counted as road, as EDAPS' evaluator does.
        factor: what the means are multiplied by.
        is_compatibility: for comparison with tables of others only, never the leading protocol.
    """

    name: str
    train_ids: tuple[int, ...]
    void_train_ids: tuple[int, ...] = ()
    void_is_road: bool = False
    factor: float = 1.0
    is_compatibility: bool = False


PROTOCOLS: Registry[Protocol] = Registry("protocol")
for _protocol in (
    Protocol("19", TRAIN_IDS_19),
    Protocol("16", TRAIN_IDS_16),
    Protocol("16_void", TRAIN_IDS_16, NOT_IN_SYNTHIA),
    Protocol("13", TRAIN_IDS_13),
    Protocol("13_void", TRAIN_IDS_13, NOT_IN_SYNTHIA),
    Protocol(
        *("16_edaps_compat", TRAIN_IDS_19),
        void_is_road=True,
        factor=19 / 16,
        is_compatibility=True,
    ),
):
    PROTOCOLS.register(_protocol.name)(_protocol)


def protocols_of(train_ids: Iterable[int]) -> tuple[str, ...]:
    """Names the protocols that a network of these classes can be scored by.

    Args:
        train_ids: train ids of the classes the network predicts.

    Returns:
        Protocols whose averaged classes are all predicted, those with most classes first; those for
        compatibility are not among them.
    """
    predicted = set(train_ids)
    fitting = [
        p
        for p in map(PROTOCOLS.get, PROTOCOLS)
        if predicted.issuperset(p.train_ids) and not p.is_compatibility
    ]
    return tuple(p.name for p in sorted(fitting, key=lambda p: (-len(p.train_ids), p.name)))


def compatibility_protocols() -> tuple[str, ...]:
    """Names the protocols that only serve to compare with published tables; any network fits."""
    return tuple(p.name for p in map(PROTOCOLS.get, PROTOCOLS) if p.is_compatibility)
