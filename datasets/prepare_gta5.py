"""Checks GTA5 ("Playing for Data") and counts its classes; its files are used as downloaded.

    python datasets/prepare_gta5.py                     # reads and counts all 24966 labels
    python datasets/prepare_gta5.py --check             # writes nothing, reads 100 of them
    python datasets/prepare_gta5.py --check --sample 0           # ... reads all of them

The default folder is `$DETECTRON2_DATASETS/gta5`, or `datasets/gta5`; the ten image archives and
the ten label archives are unpacked into it. Exit code 2: it cannot be used as it is.
"""

from __future__ import annotations

import sys

from prepare_common import run_source_script

from gbw_d2.data.formats.gta5 import load_gta5, read_semantic

if __name__ == "__main__":
    sys.exit(
        run_source_script(
            __doc__,
            folder="gta5",
            holds="images and labels",
            dataset_name="gta5_semantic_train",
            num_images=24966,
            load=load_gta5,
            read_label=read_semantic,
        )
    )
