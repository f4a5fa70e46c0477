"""Labels of Cityscapes' label ids (0..33), as in GTA5 and Cross-City."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gbw_d2.cityscapes_classes import raw_to_train_id
from gbw_d2.data.formats.files import few, read_indices
from gbw_d2.data.spec import DatasetError

# 0..33, and the licence plate: -1 in Cityscapes' table, 34 in GTA5's.
LABEL_IDS = tuple(range(35))
_TRAIN_ID_OF = raw_to_train_id("cityscapes_id")


def read_label_ids(path: str | Path, hint: str) -> np.ndarray:
    """Reads a label file of label ids.

    Args:
        path: an 8-bit PNG file, with a palette or in grey.
        hint: which file is expected; the end of the error message.

    Returns:
        (H, W) uint8 train ids, 255 = ignore.

    Raises:
        DatasetError: unreadable, not one channel, or an id that Cityscapes does not have.
    """
    label = read_indices(path)
    found = set(np.flatnonzero(np.bincount(label.ravel())).tolist())
    wrong = sorted(found - set(LABEL_IDS))
    if wrong:
        raise DatasetError(
            f"'{path}' holds id(s) {few([str(i) for i in wrong])}, expected Cityscapes' label ids "
            f"0..34 (are these train ids?). {hint}"
        )
    return _TRAIN_ID_OF[label]
