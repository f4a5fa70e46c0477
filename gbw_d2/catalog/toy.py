"""The toy world's twins of the real datasets: made on first use, read by the same code."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

from gbw_d2.catalog.registration import register_datasets
from gbw_d2.data.formats.cityscapes import cityscapes_specs
from gbw_d2.data.formats.crosscity import crosscity_specs
from gbw_d2.data.formats.foggy import BETAS, foggy_images
from gbw_d2.data.formats.gta5 import gta5_specs
from gbw_d2.data.formats.synthia import synthia_specs
from gbw_d2.data.formats.vistas import vistas_specs
from gbw_d2.data.spec import DatasetError, datasets_root

# The own car's hood at the bottom of the toy Cityscapes (docs/gbw.md, "Road taken by car").
HOOD = (0.0, 0.1)
toy_cityscapes_specs = partial(cityscapes_specs, ignore_rows=HOOD)


def toy_root() -> Path:
    """Returns the toy world's folder."""
    return datasets_root() / "toy"


def layout_root(layout: str, folder: str = "") -> Path:
    """Returns the folder of a further toy dataset, or one in it."""
    return datasets_root() / f"toy_{layout}" / folder


def _write(root: Path, *layout: str) -> None:
    command = [sys.executable, "-m", "gbw_d2.toyworld", str(root), *layout]
    if subprocess.run(command).returncode != 0:
        raise DatasetError(f"no toy world could be written to {root}; the reason stands above")


def prepare_toy() -> None:
    """Writes the default toy world where there is none; a finished one is used as it is.

    Raises:
        DatasetError: the world there is of another version, or none can be written.
    """
    # Imported here: listing the datasets should not cost the drawing code's load time.
    from gbw_d2.toyworld.folder import MARKER
    from gbw_d2.toyworld.settings import FORMAT_VERSION

    root = toy_root()
    if not (root / MARKER).is_file():
        _write(root)
    _check_version(root / MARKER, "format_version", FORMAT_VERSION)


def prepare_layout(layout: str) -> None:
    """Writes a further toy dataset where there is none; a finished one is used as it is.

    Raises:
        DatasetError: the one there is of another version, or none can be written.
    """
    from gbw_d2.toyworld.folder import MARKER
    from gbw_d2.toyworld.layouts import LAYOUTS
    from gbw_d2.toyworld.settings import FORMAT_VERSION

    root = layout_root(layout)
    if not (root / MARKER).is_file():
        _write(root, layout)
    _check_version(root / MARKER, "format_version", FORMAT_VERSION)
    _check_version(root / MARKER, "layout_version", LAYOUTS.get(layout).version)


def _check_version(marker: Path, key: str, wanted: int) -> None:
    found = json.loads(marker.read_text()).get(key)
    if found != wanted:
        raise DatasetError(
            f"{marker.parent} holds a toy world of version {found}, this program makes version "
            f"{wanted} and their numbers differ: delete the folder, it is made anew"
        )


register_datasets(synthia_specs("toy_synthia", lambda: toy_root() / "synthia", prepare_toy))
register_datasets(
    toy_cityscapes_specs("toy_cityscapes", lambda: toy_root() / "cityscapes", prepare_toy)
)
for _specs, _name, _layout in (
    (gta5_specs, "toy_gta5", "gta5"),
    (crosscity_specs, "toy_crosscity", "crosscity"),
    (vistas_specs, "toy_vistas", "mapillary_vistas"),
    (toy_cityscapes_specs, "toy_cityscapes2", "cityscapes2"),
    (partial(synthia_specs, split="val"), "toy_synthia", "synthia_val"),
):
    register_datasets(
        _specs(_name, partial(layout_root, _layout), partial(prepare_layout, _layout))
    )
for _specs, _name, _folder in (
    (synthia_specs, "toy_large_synthia", "synthia"),
    (partial(synthia_specs, split="val"), "toy_large_synthia", "synthia_val"),
    (toy_cityscapes_specs, "toy_large_cityscapes", "cityscapes"),
):
    register_datasets(
        _specs(_name, partial(layout_root, "large", _folder), partial(prepare_layout, "large"))
    )
for _beta in BETAS:
    register_datasets(
        toy_cityscapes_specs(
            f"toy_foggy_cityscapes_{_beta}",
            partial(layout_root, "foggy_cityscapes"),
            partial(prepare_layout, "foggy_cityscapes"),
            images=foggy_images(_beta),
        )
    )
