"""Checks SYNTHIA-RAND-CITYSCAPES and counts its classes; its files are used as downloaded.

    python datasets/prepare_synthia.py                  # reads and counts all 9400 labels
    python datasets/prepare_synthia.py --check          # writes nothing, reads 100 of them
    python datasets/prepare_synthia.py --check --sample 0        # ... reads all of them

The default folder is `$DETECTRON2_DATASETS/synthia`, or `datasets/synthia`. Exit code 2: it cannot
be used as it is.
"""

from __future__ import annotations

import sys

from prepare_common import Release, run_source_script

from gbw_d2.data.formats.synthia import load_synthia

ARCHIVE = "the archive of SYNTHIA-RAND-CITYSCAPES"
RELEASE = Release(
    first=0,
    count=9400,
    digits=7,
    archives={folder: lambda number: ARCHIVE for folder in ("RGB", "GT/LABELS")},
    size=(760, 1280),
)

if __name__ == "__main__":
    sys.exit(
        run_source_script(
            __doc__,
            folder="synthia",
            holds="RGB and GT/LABELS",
            dataset_name="synthia_panoptic_train",
            release=RELEASE,
            load=load_synthia,
        )
    )
