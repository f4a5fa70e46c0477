"""What the classes are: a label space owns them, and two spaces meet by the names of their classes.

A *class id* 0..K-1 belongs to one :class:`LabelSpace`. The reader of a data set speaks the ids of
that data set's own space (``DatasetSpec.label_space``), a network those of the run's space
(``DATASETS.LABEL_SPACE``). One table of 256 entries leads from the one to the other:

* :func:`training_table`: labels of a data set, as the network is to learn them;
* :func:`scoring`: labels of a test set and predictions of a network, as they are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from gbw_d2.cityscapes_classes import CLASSES, TRAIN_IDS_13, TRAIN_IDS_16
from gbw_d2.errors import UserError
from gbw_d2.registry import Registry

IGNORE_LABEL = 255
# Class ids are 8 bits: 255 is void, and 254 is what a reader marks unknown values with.
MAX_CLASSES = 254
# The name, in a data.yaml, of what has no class.
VOID = "void"


@dataclass(frozen=True)
class SemanticClass:
    """One class.

    Args:
        name: any text; classes of different spaces are the same where their names are.
        is_thing: True where instances are counted.
        color: RGB, 0..255.
        raw_id: its id in prediction files that official scripts read; None = the class id.
    """

    name: str
    is_thing: bool
    color: tuple[int, int, int]
    raw_id: int | None = None


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set or of a network, numbered 0..K-1 in their order.

    Args:
        name: its name in configs (``DATASETS.LABEL_SPACE``): a built-in one, or a file's path.
        classes: 1 to 254 of them, with different names.
        within: the space that this one is a part of. Classes of it that are missing here are left
            out on purpose: void in training, and in tests what the protocol says.
        aliases: name of a class elsewhere -> the name here that it counts as, or ``void``.
        subsets: name -> names of classes that are also scored by themselves.
    """

    name: str
    classes: tuple[SemanticClass, ...]
    within: LabelSpace | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise UserError(
                f"label space '{self.name}' has {len(self.classes)} classes; expected 1 to "
                f"{MAX_CLASSES}"
            )
        names = [c.name for c in self.classes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"label space '{self.name}' has class(es) {', '.join(twice)} twice")

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class id."""
        return tuple(c.name for c in self.classes)

    @cached_property
    def id_of(self) -> dict[str, int]:
        """Class id of each name."""
        return {name: i for i, name in enumerate(self.class_names)}

    @cached_property
    def thing_ids(self) -> tuple[int, ...]:
        """Class ids of the things."""
        return tuple(i for i, c in enumerate(self.classes) if c.is_thing)

    @cached_property
    def stuff_ids(self) -> tuple[int, ...]:
        """Class ids of the stuff."""
        return tuple(i for i, c in enumerate(self.classes) if not c.is_thing)

    @cached_property
    def is_thing(self) -> np.ndarray:
        """(256,) bool: class id -> whether it is a thing; False where there is no class."""
        table = np.zeros(256, dtype=bool)
        table[list(self.thing_ids)] = True
        return table

    @cached_property
    def colors(self) -> np.ndarray:
        """RGB palette, (256, 3) uint8: row i colours class id i, all other rows are black."""
        palette = np.zeros((256, 3), dtype=np.uint8)
        palette[: self.num_classes] = [c.color for c in self.classes]
        return palette

    @property
    def family(self) -> LabelSpace:
        """The largest space that this one is a part of; itself where it is part of none."""
        return self if self.within is None else self.within.family

    @cached_property
    def left_out(self) -> frozenset[str]:
        """Names of the classes of :attr:`family` that are missing here."""
        return frozenset(self.family.class_names) - frozenset(self.class_names)

    @cached_property
    def to_family(self) -> np.ndarray:
        """Table (256,) uint8: class id -> id in :attr:`family`, 255 where there is none."""
        return _table(self.class_names, self.family.id_of)

    @cached_property
    def from_family(self) -> np.ndarray:
        """Table (256,) uint8: id in :attr:`family` -> class id, 255 where there is none."""
        return _table(self.family.class_names, self.id_of)

    def as_dict(self) -> dict[str, Any]:
        """Returns it as plain Python, for checkpoints; :func:`space_from_dict` reads it."""
        return {
            "name": self.name,
            "classes": [
                {"name": c.name, "thing": c.is_thing, "color": list(c.color), "raw_id": c.raw_id}
                for c in self.classes
            ],
            "within": None if self.within is None else self.within.as_dict(),
            "aliases": dict(self.aliases),
            "subsets": {name: list(names) for name, names in self.subsets.items()},
        }


def space_from_dict(content: Mapping[str, Any]) -> LabelSpace:
    """Makes the label space that :meth:`LabelSpace.as_dict` described.

    Raises:
        UserError: it is no such description.
    """
    try:
        within = content["within"]
        space = LabelSpace(
            content["name"],
            tuple(
                SemanticClass(c["name"], c["thing"], tuple(c["color"]), c["raw_id"])
                for c in content["classes"]
            ),
            None if within is None else space_from_dict(within),
            dict(content["aliases"]),
            {name: tuple(names) for name, names in content["subsets"].items()},
        )
        _check_types(space)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"the label space of the checkpoint cannot be read ({error})") from error
    return space


def _check_types(space: LabelSpace) -> None:
    """Raises TypeError where a label space that was read holds what none can hold."""
    members = [name for names in space.subsets.values() for name in names]
    texts = [space.name, *space.class_names, *space.subsets, *members]
    texts += [text for pair in space.aliases.items() for text in pair]
    if not all(isinstance(text, str) and text for text in texts):
        raise TypeError("a name is no text")
    if not set(members) <= set(space.class_names):
        raise TypeError("a subset names no class")
    for each in space.classes:
        if type(each.is_thing) is not bool:
            raise TypeError(f"'{each.name}' is neither thing nor stuff")
        if len(each.color) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in each.color):
            raise TypeError(f"the colour of '{each.name}' is {each.color}")
        if each.raw_id is not None and type(each.raw_id) is not int:
            raise TypeError(f"the raw id of '{each.name}' is {each.raw_id!r}")


class _LabelSpaces(Registry[LabelSpace]):
    """The built-in label spaces, and those that a run has read from a file or a checkpoint."""

    def __init__(self) -> None:
        super().__init__("label space")
        self._read: set[str] = set()

    def adopt(self, space: LabelSpace) -> LabelSpace:
        """Enters a space that was read, in place of an older one of that name.

        Raises:
            UserError: it has the name of a built-in one, but other classes.
        """
        if space.name in self._entries and space.name not in self._read:
            if space.class_names != self._entries[space.name].class_names:
                raise UserError(
                    f"label space '{space.name}' has other classes than the built-in one of that "
                    "name; give it another name"
                )
            return self._entries[space.name]
        self._read.add(space.name)
        self._entries[space.name] = space
        return space

    def names(self) -> list[str]:
        """Returns the names of the built-in ones, sorted: errors offer these."""
        return sorted(self._entries.keys() - self._read)


CITYSCAPES_19 = LabelSpace(
    "cityscapes_19",
    tuple(SemanticClass(c.name, c.is_thing, c.color, c.cityscapes_id) for c in CLASSES),
)
# The 11 classes that published tables of CamVid have, coarser than Cityscapes'.
CAMVID_11 = LabelSpace(
    "camvid_11",
    tuple(
        CITYSCAPES_19.classes[CITYSCAPES_19.id_of[name]]
        for name in (
            *("road", "sidewalk", "building", "fence", "pole", "traffic sign", "vegetation"),
            *("sky", "person", "rider", "car"),
        )
    ),
    aliases={
        "wall": "building",
        "traffic light": "traffic sign",
        "terrain": "vegetation",
        **dict.fromkeys(("truck", "bus", "train"), "car"),
        **dict.fromkeys(("motorcycle", "bicycle"), "rider"),
    },
    subsets={"rare": ("fence", "pole", "traffic sign", "person", "rider")},
)
LABEL_SPACES = _LabelSpaces()
for _space in (
    CITYSCAPES_19,
    CAMVID_11,
    *(
        LabelSpace(name, tuple(CITYSCAPES_19.classes[t] for t in train_ids), CITYSCAPES_19)
        for name, train_ids in (("cityscapes_16", TRAIN_IDS_16), ("cityscapes_13", TRAIN_IDS_13))
    ),
):
    LABEL_SPACES.register(_space.name)(_space)


def training_table(data: LabelSpace, network: LabelSpace) -> np.ndarray:
    """Says what a network is to learn from the labels of a data set.

    Classes meet by name; ``network.aliases`` joins others. Classes that ``network`` leaves out of
    the space it is a part of (``within``) are void.

    Args:
        data: the data set's classes.
        network: the run's classes.

    Returns:
        (256,) uint8: class id of ``data`` -> class id of ``network``, 255 = void.

    Raises:
        UserError: a class on either side has no partner on the other.
    """
    renamed = _renamed(data, network)
    _check_partners(
        (data, renamed, network, network.class_names), (network, network.class_names, data, renamed)
    )
    return _table(renamed, network.id_of)


@dataclass(frozen=True)
class Scoring:
    """How a network and a test set meet.

    Attributes:
        space: the classes that are compared: those of the test set, joined where the network's
            space joins them.
        truth: (256,) uint8, class id of the test set -> id in ``space``, 255 = void.
        prediction: (256,) uint8, class id of the network -> id in ``space``, 255 = no class there.
        network: the classes that are predicted.
        subsets: name -> names in ``space`` that either side wants scored by themselves.
    """

    space: LabelSpace
    truth: np.ndarray
    prediction: np.ndarray
    network: LabelSpace
    subsets: Mapping[str, tuple[str, ...]]

    @cached_property
    def predictable(self) -> tuple[str, ...]:
        """Names in ``space`` that the network can predict, in the order of ``space``."""
        reached = set(self.prediction.tolist())
        return tuple(n for i, n in enumerate(self.space.class_names) if i in reached)


def scoring(network: LabelSpace, truth: LabelSpace) -> Scoring:
    """Says how predictions of a network are compared with the labels of a test set.

    Classes meet by name, after the aliases of each side were applied to the names of the other:
    a test set that is coarser says what joins into its classes, and so does a network that is.

    Args:
        network: the run's classes.
        truth: the test set's classes.

    Raises:
        UserError: a class on either side has no partner on the other.
    """
    true_names, said_names = _renamed(truth, network), _renamed(network, truth)
    kept = tuple(dict.fromkeys(name for name in true_names if name != VOID))
    _check_partners((network, said_names, truth, kept), (truth, true_names, network, said_names))
    space = truth if kept == truth.class_names else _joined(truth, network, kept)
    new_name = dict(zip(truth.class_names, true_names, strict=True))
    new_name |= dict(zip(network.class_names, said_names, strict=True))
    subsets = {
        subset: tuple(dict.fromkeys(new_name[name] for name in names))
        for subset, names in {**truth.subsets, **network.subsets}.items()
    }
    true, said = (_table(names, space.id_of) for names in (true_names, said_names))
    return Scoring(space, true, said, network, subsets)


def _joined(truth: LabelSpace, network: LabelSpace, names: tuple[str, ...]) -> LabelSpace:
    """The test set's space where the network's joins some of its classes."""
    rows = [
        truth.classes[truth.id_of[n]] if n in truth.id_of else network.classes[network.id_of[n]]
        for n in names
    ]
    return LabelSpace(f"{truth.name} as {network.name}", tuple(rows))


def _renamed(space: LabelSpace, other: LabelSpace) -> list[str]:
    """What ``other`` calls the classes of ``space``."""
    return [n if n in other.id_of else other.aliases.get(n, n) for n in space.class_names]


def _table(names: Iterable[str], ids: Mapping[str, int]) -> np.ndarray:
    table = np.full(256, IGNORE_LABEL, dtype=np.uint8)
    for i, name in enumerate(names):
        table[i] = ids.get(name, IGNORE_LABEL)
    return table


def _check_partners(*sides: Any) -> None:
    """Raises UserError where a class has no partner.

    Args:
        sides: a space, what the other one calls its classes, the other one, its names.
    """
    lonely = [
        (
            space.name,
            [
                own
                for own, name in zip(space.class_names, names, strict=True)
                if name != VOID and name not in others and name not in other.left_out
            ],
        )
        for space, names, other, others in sides
    ]
    if not any(names for _, names in lonely):
        return
    words = [f"'{name}' alone has {', '.join(names) or 'none'}" for name, names in lonely]
    raise UserError(
        f"classes without a partner of the same name: {'; '.join(words)}. Use the same names, or "
        "add `merge: {name here: [names there], void: [names there]}` to a data.yaml "
        "(docs/your_own_data.md)"
    )
