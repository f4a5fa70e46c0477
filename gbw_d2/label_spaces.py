"""Label spaces, which define classes, and the mapping between two label spaces by class names.

A *class id* 0..K-1 belongs to one :class:`LabelSpace`. The reader of a dataset returns ids of that
dataset's own space (``DatasetSpec.label_space``), a network predicts ids of the run's space
(``DATASETS.LABEL_SPACE``). A table of 256 entries maps one to the other:

* :func:`training_table`: from labels of a dataset to training labels of the network; *
:func:`scoring`: from labels of a test set and predictions of a network to comparable ids.
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
# Class ids have 8 bits: 255 is void, and readers mark unknown values with 254.
MAX_CLASSES = 254
# The name of unlabelled pixels in a data.yaml.
VOID = "void"


@dataclass(frozen=True)
class SemanticClass:
    """A semantic class.

    Args:
        name: any text; classes of different spaces with the same name are the same class.
        is_thing: whether the class has instances.
        color: RGB, 0..255.
        raw_id: its id in prediction files for official scripts; None for the class id.
    """

    name: str
    is_thing: bool
    color: tuple[int, int, int]
    raw_id: int | None = None


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a dataset or of a network, numbered 0..K-1 in order.

    Args:
        name: its name in configs (``DATASETS.LABEL_SPACE``): a built-in one, or a file's path.
        classes: 1 to 254 classes with different names.
        within: the space of which this one is a part. Its classes that are missing here are left
            out on purpose: they are void in training, and treated by the protocol in evaluation.
        aliases: for names of classes in other spaces, the name of the class here, or ``void``.
        subsets: by name, the names of classes that also have a mean of their own.
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
        """The name of each class id."""
        return tuple(c.name for c in self.classes)

    @cached_property
    def id_of(self) -> dict[str, int]:
        """The class id of each name."""
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
        """(256,) bool: whether each class id is a thing; False for ids without a class."""
        table = np.zeros(256, dtype=bool)
        table[list(self.thing_ids)] = True
        return table

    @cached_property
    def colors(self) -> np.ndarray:
        """The RGB palette, (256, 3) uint8, indexed by class id; all other rows are black."""
        palette = np.zeros((256, 3), dtype=np.uint8)
        palette[: self.num_classes] = [c.color for c in self.classes]
        return palette

    @property
    def family(self) -> LabelSpace:
        """The largest space of which this one is a part, or itself."""
        return self if self.within is None else self.within.family

    @cached_property
    def left_out(self) -> frozenset[str]:
        """Names of the classes of :attr:`family` that are missing here."""
        return frozenset(self.family.class_names) - frozenset(self.class_names)

    @cached_property
    def to_family(self) -> np.ndarray:
        """The table (256,) uint8 from class ids to ids in :attr:`family`, 255 for none."""
        return _table(self.class_names, self.family.id_of)

    @cached_property
    def from_family(self) -> np.ndarray:
        """The table (256,) uint8 from ids in :attr:`family` to class ids, 255 for none."""
        return _table(self.family.class_names, self.id_of)

    def as_dict(self) -> dict[str, Any]:
        """Returns the label space as plain Python values; :func:`space_from_dict` inverts it."""
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
    """Makes a label space from the result of :meth:`LabelSpace.as_dict`.

    Raises:
        UserError: the content is invalid.
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
    """Raises TypeError if a label space that was read has invalid values."""
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
    """The built-in label spaces, and those read from files or checkpoints."""

    def __init__(self) -> None:
        super().__init__("label space")
        self._read: set[str] = set()

    def adopt(self, space: LabelSpace) -> LabelSpace:
        """Adds a label space that was read, replacing an older one of the same name.

        Raises:
            UserError: a built-in label space has the same name but other classes.
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
        """Returns the sorted names of the built-in label spaces, for error messages."""
        return sorted(self._entries.keys() - self._read)


CITYSCAPES_19 = LabelSpace(
    "cityscapes_19",
    tuple(SemanticClass(c.name, c.is_thing, c.color, c.cityscapes_id) for c in CLASSES),
)
# The 11 classes of published tables on CamVid, coarser than Cityscapes'.
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
    """Returns the table from a dataset's class ids to a network's training labels.

    Classes are matched by name; ``network.aliases`` maps further names. Classes that ``network``
    leaves out of the space of which it is a part (``within``) are void.

    Args:
        data: the dataset's classes.
        network: the run's classes.

    Returns:
        (256,) uint8: class id of ``network`` for each class id of ``data``, 255 = void.

    Raises:
        UserError: a class of either space has no counterpart in the other.
    """
    renamed = _renamed(data, network)
    _check_partners(
        (data, renamed, network, network.class_names), (network, network.class_names, data, renamed)
    )
    return _table(renamed, network.id_of)


@dataclass(frozen=True)
class Scoring:
    """The mapping of a network's and a test set's classes to common classes for evaluation.

    Attributes:
        space: the common classes: those of the test set, merged where the network's space merges
            them.
        truth: (256,) uint8, id in ``space`` for each class id of the test set, 255 = void.
        prediction: (256,) uint8, id in ``space`` for each class id of the network, 255 = none.
        network: the classes that the network predicts.
        subsets: by name, the names in ``space`` of classes with a mean of their own.
    """

    space: LabelSpace
    truth: np.ndarray
    prediction: np.ndarray
    network: LabelSpace
    subsets: Mapping[str, tuple[str, ...]]

    @cached_property
    def predictable(self) -> tuple[str, ...]:
        """The names in ``space`` that the network can predict, in the order of ``space``."""
        reached = set(self.prediction.tolist())
        return tuple(n for i, n in enumerate(self.space.class_names) if i in reached)


def scoring(network: LabelSpace, truth: LabelSpace) -> Scoring:
    """Returns how predictions of a network are compared with the labels of a test set.

    Classes are matched by name, after the aliases of each space have been applied to the names of
    the other: the coarser of the two defines which classes are merged.

    Args:
        network: the run's classes.
        truth: the test set's classes.

    Raises:
        UserError: a class of either space has no counterpart in the other.
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
    """Returns the test set's space with the classes merged that the network's space merges."""
    rows = [
        truth.classes[truth.id_of[n]] if n in truth.id_of else network.classes[network.id_of[n]]
        for n in names
    ]
    return LabelSpace(f"{truth.name} as {network.name}", tuple(rows))


def _renamed(space: LabelSpace, other: LabelSpace) -> list[str]:
    """Returns the names of the classes of ``space`` in ``other``."""
    return [n if n in other.id_of else other.aliases.get(n, n) for n in space.class_names]


def _table(names: Iterable[str], ids: Mapping[str, int]) -> np.ndarray:
    table = np.full(256, IGNORE_LABEL, dtype=np.uint8)
    for i, name in enumerate(names):
        table[i] = ids.get(name, IGNORE_LABEL)
    return table


def _check_partners(*sides: Any) -> None:
    """Raises UserError if a class has no counterpart.

    Args:
        sides: a space, the names of its classes in the other, and the same for the other space.
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
