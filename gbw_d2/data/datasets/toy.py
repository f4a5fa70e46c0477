"""The toy world's twins of SYNTHIA and Cityscapes: made on first use, read by the same code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gbw_d2.data.catalog import DatasetError, datasets_root
from gbw_d2.data.formats.cityscapes import register_cityscapes
from gbw_d2.data.formats.synthia import register_synthia


def toy_root() -> Path:
    """Returns the toy world's folder."""
    return datasets_root() / "toy"


def prepare_toy() -> None:
    """Writes the default toy world where there is none; a finished one is used as it is.

    Raises:
        DatasetError: the world there is of another version, or none can be written.
    """
    # Imported here: listing the datasets should not cost the drawing code's load time.
    from gbw_d2.data.toyworld.settings import FORMAT_VERSION
    from gbw_d2.data.toyworld.writer import MARKER

    root = toy_root()
    marker = root / MARKER
    if not marker.is_file():
        done = subprocess.run([sys.executable, "-m", "gbw_d2.data.toyworld", str(root)])
        if done.returncode != 0:
            raise DatasetError(f"no toy world could be written to {root}; the reason stands above")
    found = json.loads(marker.read_text())["format_version"]
    if found != FORMAT_VERSION:
        raise DatasetError(
            f"{root} holds a toy world of version {found}, this program makes version "
            f"{FORMAT_VERSION} and their numbers differ: delete the folder, it is made anew"
        )


register_synthia("toy_synthia", lambda: toy_root() / "synthia", prepare_toy)
register_cityscapes("toy_cityscapes", lambda: toy_root() / "cityscapes", prepare_toy)
