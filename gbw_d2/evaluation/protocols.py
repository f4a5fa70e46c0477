"""Which classes a score averages, and what happens to ground truth outside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gbw_d2.data.label_spaces import TRAIN_IDS_13, TRAIN_IDS_16, TRAIN_IDS_19
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
    """

    name: str
    train_ids: tuple[int, ...]
    void_train_ids: tuple[int, ...] = ()


PROTOCOLS: Registry[Protocol] = Registry("protocol")
for _protocol in (
    Protocol("19", TRAIN_IDS_19),
    Protocol("16", TRAIN_IDS_16),
    Protocol("16_void", TRAIN_IDS_16, NOT_IN_SYNTHIA),
    Protocol("13", TRAIN_IDS_13),
    Protocol("13_void", TRAIN_IDS_13, NOT_IN_SYNTHIA),
):
    PROTOCOLS.register(_protocol.name)(_protocol)


def protocols_of(train_ids: Iterable[int]) -> tuple[str, ...]:
    """Names the protocols that a network of these classes can be scored by.

    Args:
        train_ids: train ids of the classes the network predicts.

    Returns:
        Protocols whose averaged classes are all predicted, those with most classes first.
    """
    predicted = set(train_ids)
    fitting = [p for p in map(PROTOCOLS.get, PROTOCOLS) if predicted.issuperset(p.train_ids)]
    return tuple(p.name for p in sorted(fitting, key=lambda p: (-len(p.train_ids), p.name)))
