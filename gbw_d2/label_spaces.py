"""The one label-space table: ids, names, colours, thing or stuff, and the 19 / 16 / 13 subsets.

Three kinds of id appear in this project and are never mixed:

* ``train_id``   0..18, the Cityscapes train ids; every dataset reader and evaluator speaks these.
* ``class id``   0..K-1, contiguous inside a :class:`LabelSpace`; what a network predicts.
* a dataset's own raw ids (``cityscapes_id``, ``synthia_id``), used by that dataset's reader only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gbw_d2.registry import Registry

IGNORE_LABEL = 255


@dataclass(frozen=True)
class SemanticClass:
    """One row of the class table.

    Args:
        train_id: Cityscapes train id, 0..18.
        name: Cityscapes' name of the class.
        cityscapes_id: raw label id in Cityscapes and GTA5, 0..33.
        synthia_id: raw class id in SYNTHIA-RAND-CITYSCAPES; terrain, truck and train have one there
            but never occur.
        is_thing: True where instances are counted.
        color: RGB, 0..255, Cityscapes' palette.
    """

    train_id: int
    name: str
    cityscapes_id: int
    synthia_id: int
    is_thing: bool
    color: tuple[int, int, int]


CLASSES: tuple[SemanticClass, ...] = (
    SemanticClass(0, "road", 7, 3, False, (128, 64, 128)),
    SemanticClass(1, "sidewalk", 8, 4, False, (244, 35, 232)),
    SemanticClass(2, "building", 11, 2, False, (70, 70, 70)),
    SemanticClass(3, "wall", 12, 21, False, (102, 102, 156)),
    SemanticClass(4, "fence", 13, 5, False, (190, 153, 153)),
    SemanticClass(5, "pole", 17, 7, False, (153, 153, 153)),
    SemanticClass(6, "traffic light", 19, 15, False, (250, 170, 30)),
    SemanticClass(7, "traffic sign", 20, 9, False, (220, 220, 0)),
    SemanticClass(8, "vegetation", 21, 6, False, (107, 142, 35)),
    SemanticClass(9, "terrain", 22, 16, False, (152, 251, 152)),
    SemanticClass(10, "sky", 23, 1, False, (70, 130, 180)),
    SemanticClass(11, "person", 24, 10, True, (220, 20, 60)),
    SemanticClass(12, "rider", 25, 17, True, (255, 0, 0)),
    SemanticClass(13, "car", 26, 8, True, (0, 0, 142)),
    SemanticClass(14, "truck", 27, 18, True, (0, 0, 70)),
    SemanticClass(15, "bus", 28, 19, True, (0, 60, 100)),
    SemanticClass(16, "train", 31, 20, True, (0, 80, 100)),
    SemanticClass(17, "motorcycle", 32, 12, True, (0, 0, 230)),
    SemanticClass(18, "bicycle", 33, 11, True, (119, 11, 32)),
)

TRAIN_IDS_19: tuple[int, ...] = tuple(c.train_id for c in CLASSES)
# Without terrain, truck and train, which SYNTHIA does not contain.
TRAIN_IDS_16: tuple[int, ...] = tuple(t for t in TRAIN_IDS_19 if t not in (9, 14, 16))
# Without wall, fence and pole as well.
TRAIN_IDS_13: tuple[int, ...] = tuple(t for t in TRAIN_IDS_16 if t not in (3, 4, 5))

# SYNTHIA ids that carry no class of ours: void, parking-slot, road-work, lane-marking.
SYNTHIA_VOID_IDS: tuple[int, ...] = (0, 13, 14, 22)


@dataclass(frozen=True)
class LabelSpace:
    """The classes a network predicts, numbered 0..K-1.

    Args:
        name: its name in configs (``DATASETS.LABEL_SPACE``).
        train_ids: train id of each class id, in order.
    """

    name: str
    train_ids: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.train_ids)

    @cached_property
    def classes(self) -> tuple[SemanticClass, ...]:
        """The table's row of each class id."""
        return tuple(CLASSES[t] for t in self.train_ids)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class id."""
        return tuple(c.name for c in self.classes)

    @cached_property
    def thing_ids(self) -> tuple[int, ...]:
        """Class ids (not train ids) of the things."""
        return tuple(i for i, c in enumerate(self.classes) if c.is_thing)

    @cached_property
    def stuff_ids(self) -> tuple[int, ...]:
        """Class ids (not train ids) of the stuff."""
        return tuple(i for i, c in enumerate(self.classes) if not c.is_thing)

    @cached_property
    def colors(self) -> np.ndarray:
        """RGB palette, (256, 3) uint8: row i colours class id i, all other rows are black."""
        palette = np.zeros((256, 3), dtype=np.uint8)
        palette[: self.num_classes] = [c.color for c in self.classes]
        return palette

    @cached_property
    def from_train_id(self) -> np.ndarray:
        """Table (256,) uint8: train id -> class id, ``IGNORE_LABEL`` where there is none."""
        table = np.full(256, IGNORE_LABEL, dtype=np.uint8)
        table[list(self.train_ids)] = np.arange(self.num_classes)
        return table

    @cached_property
    def to_train_id(self) -> np.ndarray:
        """Table (256,) uint8: class id -> train id, ``IGNORE_LABEL`` where there is none."""
        table = np.full(256, IGNORE_LABEL, dtype=np.uint8)
        table[: self.num_classes] = self.train_ids
        return table


LABEL_SPACES: Registry[LabelSpace] = Registry("label space")
for _space in (
    LabelSpace("cityscapes_19", TRAIN_IDS_19),
    LabelSpace("cityscapes_16", TRAIN_IDS_16),
    LabelSpace("cityscapes_13", TRAIN_IDS_13),
):
    LABEL_SPACES.register(_space.name)(_space)


def raw_to_train_id(attribute: str) -> np.ndarray:
    """Builds the look-up table from a dataset's raw ids to train ids.

    Args:
        attribute: the column of the class table, ``"cityscapes_id"`` or ``"synthia_id"``.

    Returns:
        (256,) uint8: raw id -> train id, ``IGNORE_LABEL`` for every id without a class.
    """
    table = np.full(256, IGNORE_LABEL, dtype=np.uint8)
    for c in CLASSES:
        table[getattr(c, attribute)] = c.train_id
    return table
