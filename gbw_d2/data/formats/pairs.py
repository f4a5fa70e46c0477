"""Pairs of images and labels; incomplete pairs are left out and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from gbw_d2 import keys
from gbw_d2.data.formats.files import LABEL_FILE, few, image_record, list_names, warn_once
from gbw_d2.data.spec import DatasetError, Record


def load_pairs(image_folder: Path, label_folder: Path, hint: str) -> list[Record]:
    """Lists PNG images whose labels have the same names in another folder, sorted by name.

    In a partial download, complete pairs are used, and a warning gives the number of others.

    Args:
        image_folder: folder of the images.
        label_folder: folder of the labels.
        hint: what to do if there are none; the end of the error message.

    Returns:
        Records with ``file_name``, ``image_id``, ``height``, ``width`` and :data:`LABEL_FILE`.

    Raises:
        DatasetError: a folder is missing or empty, or no image has a label.
    """
    names = list_names(image_folder, ".png", hint)
    labels = list_names(label_folder, ".png", hint)
    present = {str(label_folder / name) for name in labels}
    records = [
        {
            **image_record(image_folder / name, name.removesuffix(".png")),
            LABEL_FILE: str(label_folder / name),
        }
        for name in names
    ]
    lacking = {r[keys.IMAGE_ID]: r[LABEL_FILE] for r in records if r[LABEL_FILE] not in present}
    lonely = sorted(set(labels) - set(names))
    return keep_labelled(records, lacking, lonely, f"'{image_folder}'", hint)


def with_labels(
    records: list[Record],
    label_of: Callable[[Path], Path],
    place: str,
    hint: str,
    label_names: Iterable[str] = (),
) -> list[Record]:
    """Adds the label of each image under :data:`LABEL_FILE`, and drops images without a label.

    Args:
        records: records of all images.
        label_of: returns the label file of an image file.
        place: as in :func:`keep_labelled`.
        hint: likewise.
        label_names: names of all existing labels, to report those without an image.

    Raises:
        DatasetError: no image has its label.
    """
    for record in records:
        record[LABEL_FILE] = str(label_of(Path(record[keys.FILE_NAME])))
    lacking = {
        r[keys.IMAGE_ID]: r[LABEL_FILE] for r in records if not Path(r[LABEL_FILE]).is_file()
    }
    known = {Path(record[LABEL_FILE]).name for record in records}
    lonely = sorted(name for name in label_names if name not in known)
    return keep_labelled(records, lacking, lonely, place, hint)


def keep_labelled(
    records: list[Record], lacking: Mapping[str, str], lonely: Sequence[str], place: str, hint: str
) -> list[Record]:
    """Drops images whose labels are missing, as in a partial download, with a warning.

    Every labelled dataset uses this function; metrics on a partial test set get another name
    (``DatasetSpec.count_images``).

    Args:
        records: records of all images.
        lacking: the missing label by image id.
        lonely: labels without an image.
        place: location of the images, for messages.
        hint: what to do if no image has its label; the end of the error message.

    Returns:
        The records of complete images.

    Raises:
        DatasetError: no image is complete.
    """
    kept = [record for record in records if record[keys.IMAGE_ID] not in lacking]
    if not kept:
        raise DatasetError(
            f"none of {len(records)} images in {place} has its label, such as "
            f"'{next(iter(lacking.values()), '')}'. {hint}"
        )
    sides = ((lacking, "a label"), (lonely, "an image"))
    parts = [f"{len(ids)} without {what} ({few(sorted(ids))})" for ids, what in sides if ids]
    if parts:
        warn_once(f"{place}: left out {' and '.join(parts)}; {len(kept)} pairs are used")
    return kept
