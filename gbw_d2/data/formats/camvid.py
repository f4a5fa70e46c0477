"""CamVid (Brostow et al. 2009) in its two public forms, with the 11 classes of published tables.

* SegNet's: ``{train,val,test}`` and ``{train,val,test}annot``, 480 x 360, labels of the indices
  0..11, of which 11 is void. Labels lie beside images of any of ``.png`` and ``.jpg``.
* the original: ``701_StillsRaw_full`` and ``LabeledApproved_full``, 960 x 720, labels
  ``*_L.png`` in 32 colours.

File names contain the drive and the frame, so the splits are the same in both forms. There are no
instances.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from gbw_d2 import keys
from gbw_d2.data.formats.files import (
    LABEL_FILE,
    check_size,
    check_unique,
    few,
    image_record,
    is_clutter,
    read_image,
    read_indices,
)
from gbw_d2.data.formats.pairs import with_labels
from gbw_d2.data.formats.target_specs import semantic_specs
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record
from gbw_d2.label_spaces import CAMVID_11, IGNORE_LABEL

# The class of this project for each of SegNet's indices.
SEGNET_CLASSES = (
    *("sky", "building", "pole", "road", "sidewalk", "vegetation", "traffic sign", "fence"),
    *("car", "person", "rider"),
)
SEGNET_VOID = len(SEGNET_CLASSES)
# The 32 colours (RGB) of the original, by the class to which SegNet's authors assign them.
COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "sky": ((128, 128, 128),),
    # Building, archway, bridge, tunnel, wall.
    "building": ((128, 0, 0), (192, 0, 128), (0, 128, 64), (64, 0, 64), (64, 192, 0)),
    # Column or pole, traffic cone.
    "pole": ((192, 192, 128), (0, 0, 64)),
    # Road, lane markings that are driven on and not driven on.
    "road": ((128, 64, 128), (128, 0, 192), (192, 0, 64)),
    # Sidewalk, parking block, road shoulder.
    "sidewalk": ((0, 0, 192), (64, 192, 128), (128, 128, 192)),
    # Tree, other vegetation.
    "vegetation": ((128, 128, 0), (192, 192, 0)),
    # Sign, text, traffic light.
    "traffic sign": ((192, 128, 128), (128, 128, 64), (0, 64, 64)),
    "fence": ((64, 64, 128),),
    # Car, pickup truck, truck or bus, train, other moving thing.
    "car": ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    # Pedestrian, child, luggage or pram, animal.
    "person": ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),
    # Bicyclist, motorcycle or scooter.
    "rider": ((0, 128, 192), (192, 0, 192)),
}
VOID_COLOUR = (0, 0, 0)
NUM_IMAGES = {"train": 367, "val": 101, "test": 233}
_HINT = (
    "Expected CamVid as SegNet's authors give it (train, trainannot, val, ...) or the original "
    "(701_StillsRaw_full, LabeledApproved_full); datasets/README.md shows where the files go "
    "(DETECTRON2_DATASETS moves the root), and `python datasets/prepare_camvid.py --check` looks "
    "them over."
)


def place_of(stem: str) -> tuple[str, str]:
    """Returns the split and the light (day or dusk) of an image.

    There are four drives. 0001TP, at dusk, is training data up to frame 8520 and test data from
    frame 8550 on; frames 7959 to 8159 of 0016E5 are validation data; 0006R0 is training data and
    Seq05VD test data.

    Args:
        stem: name of the image, such as ``0016E5_07959`` or ``Seq05VD_f00000``.

    Returns:
        (``train``, ``val`` or ``test``; ``day`` or ``dusk``).

    Raises:
        DatasetError: it is not a name of a CamVid image.
    """
    drive, _, frame = stem.partition("_")
    digits = frame.removeprefix("f")
    if not digits.isdecimal() or drive not in ("0001TP", "0006R0", "0016E5", "Seq05VD"):
        raise DatasetError(
            f"'{stem}' is no image of CamVid: expected names such as 0001TP_006690 or "
            f"Seq05VD_f00000. {_HINT}"
        )
    number = int(digits)
    if drive == "0001TP":
        return ("train" if number <= 8520 else "test", "dusk")
    if drive == "0016E5":
        return ("val" if 7959 <= number <= 8159 else "train", "day")
    return ("test" if drive == "Seq05VD" else "train", "day")


def read_segnet(path: str | Path) -> np.ndarray:
    """Reads a label of SegNet's form: (H, W) uint8 class ids of ``camvid_11``, 255 = ignore.

    Raises:
        DatasetError: unreadable, not one channel, or an index above 11.
    """
    label = read_indices(path)
    if label.max(initial=0) > SEGNET_VOID:
        raise DatasetError(
            f"'{path}' holds the index {label.max()}; CamVid's labels in SegNet's form hold 0 to "
            f"{SEGNET_VOID}, {SEGNET_VOID} for void. {_HINT}"
        )
    return _OF_INDEX[label]


def read_colours(path: str | Path) -> np.ndarray:
    """Reads a label of the original: (H, W) uint8 class ids of ``camvid_11``, 255 = ignore.

    Raises:
        DatasetError: unreadable, or a colour that is none of the 32.
    """
    pixels = read_image(path, "RGB").astype(np.int32)
    codes = pixels @ np.array([1 << 16, 1 << 8, 1])
    place = np.searchsorted(_CODES, codes).clip(max=len(_CODES) - 1)
    if (_CODES[place] != codes).any():
        strange = np.unique(pixels[_CODES[place] != codes], axis=0)
        raise DatasetError(
            f"'{path}' holds {few([str(tuple(c)) for c in strange.tolist()])}, no colour (red, "
            "green, blue) of CamVid's 32: unpack it again, and let no program rescale it"
        )
    return _OF_CODE[place]


@dataclass(frozen=True)
class Form:
    """One of CamVid's two public forms.

    Args:
        pairs: folders of images and of labels, below the root.
        label_suffix: replaces an image's suffix in the name of its label.
        read: reads a label file.
    """

    pairs: tuple[tuple[str, str], ...]
    label_suffix: str
    read: Callable[[str | Path], np.ndarray]


FORMS = (
    Form(tuple((s, f"{s}annot") for s in ("train", "val", "test")), ".png", read_segnet),
    Form((("701_StillsRaw_full", "LabeledApproved_full"),), "_L.png", read_colours),
)
_OF_FOLDER = {labels: form for form in FORMS for _, labels in form.pairs}


def load_camvid(
    root: Path, split: str, light: Sequence[str] = ("day", "dusk"), labelled: bool = True
) -> list[Record]:
    """Lists the images of a split, sorted by name.

    Args:
        root: the folder with either form.
        split: ``train``, ``val`` or ``test``.
        light: ``day``, ``dusk`` or both.
        labelled: whether the records include the labels; if so, images without a label are left
            out.

    Raises:
        DatasetError: the folder has neither form, no image or no label.
    """
    form = form_of(root)
    records = [
        image_record(path, path.stem)
        for images, _ in form.pairs
        for path in _images(root / images)
        if place_of(path.stem)[0] == split and place_of(path.stem)[1] in light
    ]
    if not records:
        raise DatasetError(f"no image of split '{split}' ({', '.join(light)}) in '{root}'. {_HINT}")
    records.sort(key=lambda record: str(record[keys.IMAGE_ID]))
    check_unique(root, records)
    if not labelled:
        return records
    folders = dict(form.pairs)

    def label_of(image: Path) -> Path:
        return root / folders[image.parent.name] / f"{image.stem}{form.label_suffix}"

    return with_labels(records, label_of, f"split '{split}' of '{root}'", _HINT)


def form_of(root: Path) -> Form:
    """Determines which of :data:`FORMS` a folder has.

    Raises:
        DatasetError: it has none of them.
    """
    for form in FORMS:
        if all((root / images).is_dir() for images, _ in form.pairs):
            return form
    raise DatasetError(f"no CamVid in '{root}'. {_HINT}")


def read_semantic(record: Record) -> np.ndarray:
    """Reads the semantic label: (H, W) uint8 class ids of ``camvid_11``, 255 = ignore.

    Raises:
        DatasetError: unreadable, of another coding, or of another size than its image.
    """
    path = Path(record[LABEL_FILE])
    label = _OF_FOLDER[path.parent.name].read(path)
    check_size(label, record[keys.HEIGHT], record[keys.WIDTH], path)
    return label


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    names = (e.name for e in os.scandir(folder) if not is_clutter(e.name))
    return [folder / name for name in names if name.endswith((".png", ".jpg"))]


def camvid_specs(
    prefix: str,
    root: Callable[[], Path],
    prepare: Callable[[], None] | None = None,
    released: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[DatasetSpec]:
    """Makes the datasets of the three splits, and those by light for adaptation from day to dusk.

    Names: ``{prefix}_unlabelled_train``, ``{prefix}_semantic_{train,val,test}``,
    ``{prefix}_day_semantic_{train,test}``, ``{prefix}_dusk_semantic_test``,
    ``{prefix}_dusk_unlabelled_train`` and, for the oracle, ``{prefix}_dusk_semantic_train``.

    Args:
        prefix: ``"camvid"`` or the name of a twin in the same layout.
        root: returns the dataset's folder; only called when the dataset is loaded.
        prepare: makes the files, for datasets that can be generated.
        released: number of images of the release by split; for other splits, the images found.
    """

    def load(light: Sequence[str], split: str, labelled: bool) -> list[Record]:
        return load_camvid(root(), split, light, labelled)

    def count(light: Sequence[str], split: str) -> int:
        found = len(load_camvid(root(), split, light, labelled=False))
        return max(found, released.get(split, 0)) if tuple(light) == both else found

    both = ("day", "dusk")
    for name, light, splits in (
        (prefix, both, ("train", "val", "test")),
        (f"{prefix}_day", ("day",), ("train", "test")),
        (f"{prefix}_dusk", ("dusk",), ("train", "test")),
    ):
        yield from semantic_specs(
            name,
            partial(load, light),
            splits,
            read_semantic,
            CAMVID_11,
            partial(count, light),
            prepare,
            is_target="dusk" in light,
        )


_OF_INDEX = np.full(256, IGNORE_LABEL, dtype=np.uint8)
_OF_INDEX[:SEGNET_VOID] = [CAMVID_11.id_of[name] for name in SEGNET_CLASSES]
_code_of_class = sorted(
    ((red << 16) + (green << 8) + blue, CAMVID_11.id_of.get(name, IGNORE_LABEL))
    for name, colours in {**COLOURS, "void": (VOID_COLOUR,)}.items()
    for red, green, blue in colours
)
_CODES = np.array([code for code, _ in _code_of_class])
_OF_CODE = np.array([class_id for _, class_id in _code_of_class], dtype=np.uint8)
