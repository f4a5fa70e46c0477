"""Protocols: the classes over which scores are averaged, and the treatment of other classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from gbw_d2.cityscapes_classes import TRAIN_IDS_13, TRAIN_IDS_16, TRAIN_IDS_19, names_of
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import CITYSCAPES_19, LabelSpace, Scoring
from gbw_d2.registry import Registry

# Terrain, truck and train, which Cityscapes has and SYNTHIA lacks.
NOT_IN_SYNTHIA: tuple[str, ...] = names_of(tuple(t for t in TRAIN_IDS_19 if t not in TRAIN_IDS_16))
# The protocol for your own label spaces: every class that the network can predict.
ALL = "all"
# Suffix of metrics on a partial test set.
PARTIAL = "_partial"


@dataclass(frozen=True)
class Protocol:
    """A rule for averaging per-class scores; see docs/pq_and_miou.md.

    Args:
        name: suffix of its metrics (``PQ_16_void``).
        classes: names of the averaged classes.
        void_classes: names of classes whose ground truth becomes void, so that predictions there
            are ignored. Predictions on ground truth of any other class outside ``classes`` are
            false positives.
        void_is: the class that replaces void in predictions, or None; EDAPS' evaluator counts void
            as road.
        factor: a factor of the means.
        is_compatibility: whether it only serves to compare with published tables, so that it cannot
            be the leading protocol.
    """

    name: str
    classes: tuple[str, ...]
    void_classes: tuple[str, ...] = ()
    void_is: str | None = None
    factor: float = 1.0
    is_compatibility: bool = False

    def of_a_part(self) -> Protocol:
        """Returns this protocol with the name for a partial test set."""
        return replace(self, name=f"{self.name}{PARTIAL}")

    def ids(self, space: LabelSpace) -> tuple[int, ...]:
        """Class ids of the averaged classes."""
        return tuple(space.id_of[name] for name in self.classes)

    def void_ids(self, space: LabelSpace) -> tuple[int, ...]:
        """Class ids whose ground truth becomes void."""
        return tuple(space.id_of[name] for name in self.void_classes)


# The protocols of published tables, all on Cityscapes' 19 classes.
PROTOCOLS: Registry[Protocol] = Registry("protocol")
for _protocol in (
    Protocol("19", names_of(TRAIN_IDS_19)),
    Protocol("16", names_of(TRAIN_IDS_16)),
    Protocol("16_void", names_of(TRAIN_IDS_16), NOT_IN_SYNTHIA),
    Protocol("13", names_of(TRAIN_IDS_13)),
    Protocol("13_void", names_of(TRAIN_IDS_13), NOT_IN_SYNTHIA),
    Protocol(
        *("16_edaps_compat", names_of(TRAIN_IDS_19)),
        void_is="road",
        factor=19 / 16,
        is_compatibility=True,
    ),
):
    PROTOCOLS.register(_protocol.name)(_protocol)


def protocols_of(scoring: Scoring) -> dict[str, Protocol]:
    """Returns the protocols that are defined for a network on a test set.

    Args:
        scoring: the mapping between the classes of network and test set.

    Returns:
        The protocols by name, the default ones first, by descending number of classes: on
        Cityscapes' classes those of published tables, else ``all`` and the subsets. ``all`` and the
        compatibility protocols can always be requested.
    """
    predicted = set(scoring.predictable)
    everything = Protocol(ALL, scoring.predictable)
    if _is_cityscapes(scoring.space):
        fitting = [p for p in _built_in() if predicted.issuperset(p.classes) or p.is_compatibility]
        fitting.sort(key=lambda p: (p.is_compatibility, -len(p.classes), p.name))
        found = [*fitting, everything]
    else:
        found = [everything]
    found += [
        Protocol(name, names)
        for name, names in scoring.subsets.items()
        if predicted.issuperset(names)
    ]
    return {p.name: p for p in found}


def default_protocols(scoring: Scoring, known: Mapping[str, Protocol]) -> tuple[str, ...]:
    """Returns the names of the protocols that are used by default."""
    published = _is_cityscapes(scoring.space)
    return tuple(
        name
        for name, protocol in known.items()
        if not protocol.is_compatibility and not (published and name == ALL)
    )


def chosen_protocols(scoring: Scoring, asked: Iterable[str]) -> tuple[Protocol, ...]:
    """Returns the protocols of a test set.

    Args:
        scoring: as in :func:`protocols_of`.
        asked: requested names (EVAL.PROTOCOLS), of which those of other test sets are skipped; ()
            for the default protocols.

    Raises:
        UserError: none of the requested protocols is defined.
    """
    known = protocols_of(scoring)
    names = tuple(asked) or default_protocols(scoring, known)
    found = tuple(known[name] for name in names if name in known)
    if not found or all(p.is_compatibility for p in found):
        raise UserError(
            f"EVAL.PROTOCOLS is {', '.join(names)}, but '{scoring.space.name}' can be scored by "
            f"{', '.join(known)}"
        )
    return found


def _is_cityscapes(space: LabelSpace) -> bool:
    return space.classes == CITYSCAPES_19.classes


def _built_in() -> list[Protocol]:
    return [PROTOCOLS.get(name) for name in PROTOCOLS]
