"""Images and their labels: what has both is used, and what has not is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from gbw_d2 import keys
from gbw_d2.data.formats.files import LABEL_FILE, few, image_record, list_names, warn_once
from gbw_d2.data.spec import DatasetError, Record


def load_pairs(image_folder: Path, label_folder: Path, hint: str) -> list[Record]:
    """Lists PNG images whose labels have the same names in another folder, sorted by name.

    Of a partial download, what has both is used; a warning says how many do not.

    Args:
        image_folder: holds the images.
        label_folder: holds the labels.
        hint: what to do when there are none; the end of the error message.

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
    """Adds the label of each image under :data:`LABEL_FILE`; those that lack theirs are left out.

    Args:
        records: of all images.
        label_of: image file -> label file.
        place: as in :func:`keep_labelled`.
        hint: likewise.
        label_names: names of the labels that there are, to tell of those without an image.

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
    """Leaves the images out whose labels are not there, as in a part of a download, and says so.

    Every labelled dataset goes through here; what its scores are then called is said where they
    are made (``DatasetSpec.count_images``).

    Args:
        records: of all images.
        lacking: image id -> the label that it lacks.
        lonely: labels that have no image.
        place: where the images are, for messages.
        hint: what to do where no image has its label; the end of the error message.

    Returns:
        The records of images that lack nothing.

    Raises:
        DatasetError: that is none of them.
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
