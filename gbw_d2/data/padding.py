"""How much of the training crops is padding, because the images are smaller than the crop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gbw_d2 import keys
from gbw_d2.data.augmentation import AugmentationSettings
from gbw_d2.data.formats.files import warn_once
from gbw_d2.data.spec import Record

# Padding costs as much time as pixels of images; below this share a warning would be a nuisance.
_MUCH = 0.5


def padding_share(settings: AugmentationSettings, sizes: Sequence[tuple[int, int]]) -> float:
    """Returns the mean share of a crop that is padding, 0..1, at the mean scale.

    Args:
        settings: the augmentations.
        sizes: (rows, columns) of the images, pixels; at least one.
    """
    if settings.crop_size is None:
        return 0.0
    rows, columns = settings.crop_size
    filled = 0.0
    for size, images in Counter(sizes).items():
        height, width = settings.resize or size
        if settings.short_sides:
            factor = sum(settings.short_sides) / len(settings.short_sides) / min(height, width)
        else:
            factor = sum(settings.scale_range) / 2
        filled += images * min(height * factor, rows) * min(width * factor, columns)
    return 1 - filled / (len(sizes) * rows * columns)


def warn_of_padding(settings: AugmentationSettings, records: Sequence[Record], key: str) -> None:
    """Logs a warning if more than half of the crops is padding.

    Args:
        settings: the augmentations.
        records: the images, at least one.
        key: the config key of their dataset, such as ``DATASETS.TRAIN``.
    """
    sizes = [(record[keys.HEIGHT], record[keys.WIDTH]) for record in records]
    share = padding_share(settings, sizes)
    if share > _MUCH:
        rows, columns = sorted(sizes, key=lambda size: size[0] * size[1])[len(sizes) // 2]
        warn_once(
            f"{share:.0%} of the crops of {key} is padding, which costs time and shows nothing: "
            f"INPUT.CROP_SIZE is {settings.crop_size} (rows, columns) and an image of median size "
            f"has {rows} x {columns} pixels; set INPUT.CROP_SIZE to the size of the images, or less"
        )
