"""Cityscapes' 19 classes, with their ids in related datasets.

Only the readers of these datasets (Cityscapes, GTA5, SYNTHIA, Cross-City, Vistas, the toy world)
and the protocols of published tables need these ids; all other code uses a
:class:`gbw_d2.label_spaces.LabelSpace`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CityscapesClass:
    """One row of the table.

    Args:
        train_id: Cityscapes train id, 0..18.
        name: Cityscapes' name of the class.
        cityscapes_id: raw label id in Cityscapes and GTA5, 0..33.
        synthia_id: raw class id in SYNTHIA-RAND-CITYSCAPES; terrain, truck and train have one there
            but never occur.
        is_thing: whether the class has instances.
        color: RGB, 0..255, Cityscapes' palette.
    """

    train_id: int
    name: str
    cityscapes_id: int
    synthia_id: int
    is_thing: bool
    color: tuple[int, int, int]


CLASSES: tuple[CityscapesClass, ...] = (
    CityscapesClass(0, "road", 7, 3, False, (128, 64, 128)),
    CityscapesClass(1, "sidewalk", 8, 4, False, (244, 35, 232)),
    CityscapesClass(2, "building", 11, 2, False, (70, 70, 70)),
    CityscapesClass(3, "wall", 12, 21, False, (102, 102, 156)),
    CityscapesClass(4, "fence", 13, 5, False, (190, 153, 153)),
    CityscapesClass(5, "pole", 17, 7, False, (153, 153, 153)),
    CityscapesClass(6, "traffic light", 19, 15, False, (250, 170, 30)),
    CityscapesClass(7, "traffic sign", 20, 9, False, (220, 220, 0)),
    CityscapesClass(8, "vegetation", 21, 6, False, (107, 142, 35)),
    CityscapesClass(9, "terrain", 22, 16, False, (152, 251, 152)),
    CityscapesClass(10, "sky", 23, 1, False, (70, 130, 180)),
    CityscapesClass(11, "person", 24, 10, True, (220, 20, 60)),
    CityscapesClass(12, "rider", 25, 17, True, (255, 0, 0)),
    CityscapesClass(13, "car", 26, 8, True, (0, 0, 142)),
    CityscapesClass(14, "truck", 27, 18, True, (0, 0, 70)),
    CityscapesClass(15, "bus", 28, 19, True, (0, 60, 100)),
    CityscapesClass(16, "train", 31, 20, True, (0, 80, 100)),
    CityscapesClass(17, "motorcycle", 32, 12, True, (0, 0, 230)),
    CityscapesClass(18, "bicycle", 33, 11, True, (119, 11, 32)),
)

TRAIN_IDS_19: tuple[int, ...] = tuple(c.train_id for c in CLASSES)
# Without terrain, truck and train, which SYNTHIA does not contain.
TRAIN_IDS_16: tuple[int, ...] = tuple(t for t in TRAIN_IDS_19 if t not in (9, 14, 16))
# Without wall, fence and pole as well.
TRAIN_IDS_13: tuple[int, ...] = tuple(t for t in TRAIN_IDS_16 if t not in (3, 4, 5))

# SYNTHIA ids without one of these classes: void, parking-slot, road-work, lane-marking.
SYNTHIA_VOID_IDS: tuple[int, ...] = (0, 13, 14, 22)


def names_of(train_ids: tuple[int, ...]) -> tuple[str, ...]:
    """Returns the names of train ids."""
    return tuple(CLASSES[t].name for t in train_ids)


def raw_to_train_id(attribute: str) -> np.ndarray:
    """Builds the look-up table from a dataset's raw ids to train ids.

    Args:
        attribute: the column of the class table, ``"cityscapes_id"`` or ``"synthia_id"``.

    Returns:
        (256,) uint8: the train id of each raw id, 255 for ids without a class.
    """
    table = np.full(256, 255, dtype=np.uint8)
    for c in CLASSES:
        table[getattr(c, attribute)] = c.train_id
    return table
