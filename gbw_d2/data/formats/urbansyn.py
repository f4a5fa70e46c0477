"""UrbanSyn (Gomez et al., arXiv 2312.12176) as downloaded: ``rgb``, ``ss`` and ``panoptic``.

Files are ``rgb/rgb_0001.png``, ``ss/ss_0001.png`` (grey, Cityscapes' train ids, 19 = unlabelled)
and ``panoptic/panoptic_0001.png`` (red and green: the number of an object, blue: its class; black
where there is none). This follows the dataset's card; it was not tested on the files themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gbw_d2 import keys
from gbw_d2.data.formats.files import (
    LABEL_FILE,
    check_size,
    few,
    image_record,
    list_names,
    read_image,
    read_indices,
)
from gbw_d2.data.formats.pairs import keep_labelled
from gbw_d2.data.formats.segments import join_segments
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record, SegmentsInfo
from gbw_d2.label_spaces import CITYSCAPES_19, IGNORE_LABEL

NUM_IMAGES = 7539
# Images with wrong labels (found by MC-PanDA++'s authors, who leave them out: +0.2 PQ).
WRONG_LABELS = range(6973, 7030)
INSTANCE_FILE = "instance_file_name"
_UNLABELLED = 19
_HINT = (
    "Expected UrbanSyn with rgb/rgb_*.png, ss/ss_*.png and panoptic/panoptic_*.png there; "
    "datasets/README.md shows where the files go (DETECTRON2_DATASETS moves the root), and "
    "`python datasets/prepare_urbansyn.py --check` checks them."
)


def load_urbansyn(root: Path, instances: bool = True) -> list[Record]:
    """Lists the images of an UrbanSyn folder, sorted by number, without those with wrong labels.

    Args:
        root: the folder with ``rgb`` and ``ss``, and ``panoptic`` if instances are used.
        instances: whether the records include the instance files.

    Raises:
        DatasetError: a folder is missing, a name has no number, or no image has its labels.
    """
    files = {LABEL_FILE: "ss", **({INSTANCE_FILE: "panoptic"} if instances else {})}
    present = {folder: set(_numbers(root / folder, folder)) for folder in files.values()}
    records = []
    lacking = {}
    numbers = _usable(root)
    for number in numbers:
        record = image_record(root / "rgb" / f"rgb_{number}.png", number)
        for key, folder in files.items():
            record[key] = str(root / folder / f"{folder}_{number}.png")
            if number not in present[folder]:
                lacking[number] = record[key]
        records.append(record)
    lonely = sorted(set.union(*present.values()) - {*_numbers(root / "rgb", "rgb")})
    return keep_labelled(records, lacking, lonely, f"'{root / 'rgb'}'", _HINT)


def _usable(root: Path) -> list[str]:
    return [n for n in _numbers(root / "rgb", "rgb") if int(n) not in WRONG_LABELS]


def _numbers(root: Path, prefix: str) -> list[str]:
    names = list_names(root, ".png", _HINT)
    numbers = [name.removeprefix(f"{prefix}_").removesuffix(".png") for name in names]
    strange = [n for n, number in zip(names, numbers, strict=True) if not number.isdecimal()]
    if strange:
        raise DatasetError(f"'{root}' holds {few(strange)}; expected {prefix}_0001.png. {_HINT}")
    return numbers


def read_semantic(record: Record) -> np.ndarray:
    """Reads the semantic label: (H, W) uint8 train ids, 255 = ignore.

    Raises:
        DatasetError: unreadable, of another size than its image, or an id above 19.
    """
    path = record[LABEL_FILE]
    label = read_indices(path)
    check_size(label, record[keys.HEIGHT], record[keys.WIDTH], path)
    wrong = np.unique(label[(label > _UNLABELLED) & (label != IGNORE_LABEL)])
    if wrong.size:
        raise DatasetError(
            f"'{path}' holds id(s) {few([str(i) for i in wrong])}; UrbanSyn's are train ids 0..18 "
            f"and 19 for unlabelled. Is it really a file of `ss`? {_HINT}"
        )
    return np.where(label == _UNLABELLED, np.uint8(IGNORE_LABEL), label)


def read_panoptic(record: Record) -> tuple[np.ndarray, SegmentsInfo]:
    """Reads the panoptic label; see :func:`gbw_d2.data.formats.segments.join_segments`.

    Raises:
        DatasetError: as :func:`read_semantic`, for either file.
    """
    path = record[INSTANCE_FILE]
    colors = read_image(path, "RGB").astype(np.int32)
    check_size(colors, record[keys.HEIGHT], record[keys.WIDTH], path)
    # It does not matter which of the two is the high byte: the numbers only have to differ.
    numbers = colors[:, :, 0] + 256 * colors[:, :, 1]
    return join_segments(read_semantic(record), numbers, CITYSCAPES_19)


def urbansyn_specs(
    prefix: str, root: Callable[[], Path], prepare: Callable[[], None] | None = None
) -> Iterator[DatasetSpec]:
    """Makes ``{prefix}_panoptic_train`` and ``{prefix}_semantic_train``.

    Args:
        prefix: ``"urbansyn"`` or the name of a twin in the same layout.
        root: returns the dataset's folder; only called when the dataset is loaded.
        prepare: makes the files, for datasets that can be generated.
    """

    def load_all() -> list[Record]:
        return load_urbansyn(root())

    def load_semantic() -> list[Record]:
        return load_urbansyn(root(), instances=False)

    def count() -> int:
        return len(_usable(root()))

    for kind, load, reader in (
        ("panoptic", load_all, read_panoptic),
        ("semantic", load_semantic, None),
    ):
        yield DatasetSpec(
            f"{prefix}_{kind}_train",
            load,
            read_semantic,
            reader,
            prepare,
            label_space=CITYSCAPES_19,
            count_images=count,
        )
