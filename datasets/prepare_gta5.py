"""Checks GTA5 ("Playing for Data") and counts its classes; its files are used as downloaded.

    python datasets/prepare_gta5.py                     # reads and counts all 24966 labels
    python datasets/prepare_gta5.py --check             # writes nothing, reads 100 of them
    python datasets/prepare_gta5.py --check --sample 0           # ... reads all of them

It also lists the numbers of missing images and labels, and the archives that hold them.

The default folder is `$DETECTRON2_DATASETS/gta5`, or `datasets/gta5`; the ten image archives and
the ten label archives are unpacked into it. Exit code 2: it cannot be used as it is.
"""

from __future__ import annotations

import sys
from functools import partial

from prepare_common import Release, run_source_script

from gbw_d2.data.formats.gta5 import load_gta5

# From memory of the download: the ten archives hold 2500 numbers each, the last one fewer.
IMAGES_PER_ARCHIVE = 2500


def archive_of(number: int, folder: str) -> str:
    """Returns the archive that holds an image's file."""
    return f"{(number - 1) // IMAGES_PER_ARCHIVE + 1:02d}_{folder}.zip"


RELEASE = Release(
    first=1,
    count=24966,
    digits=5,
    archives={name: partial(archive_of, folder=name) for name in ("images", "labels")},
)

if __name__ == "__main__":
    sys.exit(
        run_source_script(
            __doc__,
            folder="gta5",
            holds="images and labels",
            dataset_name="gta5_semantic_train",
            release=RELEASE,
            load=load_gta5,
        )
    )
