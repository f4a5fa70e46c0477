"""The toy counterparts of the real datasets, generated on first use and read by the same code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from gbw_d2.catalog.registration import register_datasets
from gbw_d2.data.formats.acdc import acdc_specs
from gbw_d2.data.formats.camvid import camvid_specs
from gbw_d2.data.formats.cityscapes import cityscapes_specs
from gbw_d2.data.formats.crosscity import crosscity_specs
from gbw_d2.data.formats.foggy import BETAS, foggy_images
from gbw_d2.data.formats.gta5 import gta5_specs
from gbw_d2.data.formats.synthia import synthia_specs
from gbw_d2.data.formats.urbansyn import urbansyn_specs
from gbw_d2.data.formats.vistas import vistas_specs
from gbw_d2.data.spec import DatasetError, DatasetSpec, datasets_root
from gbw_d2.files.processes import run_to_end

# The ego vehicle's hood at the bottom of the toy Cityscapes (studies/FINDINGS.md, 4).
HOOD = (0.0, 0.1)
toy_cityscapes_specs = partial(cityscapes_specs, ignore_rows=HOOD)


# For each layout the function that makes its datasets, their prefix, and their folder in the
# layout's; "" is the default toy world.
_SPECS: dict[str, tuple[tuple[Callable[..., Iterator[DatasetSpec]], str, str], ...]] = {
    "": (
        (synthia_specs, "toy_synthia", "synthia"),
        (toy_cityscapes_specs, "toy_cityscapes", "cityscapes"),
    ),
    "acdc": ((acdc_specs, "toy_acdc", ""),),
    "urbansyn": ((urbansyn_specs, "toy_urbansyn", ""),),
    "camvid": ((camvid_specs, "toy_camvid", ""),),
    "gta5": ((gta5_specs, "toy_gta5", ""),),
    "crosscity": ((crosscity_specs, "toy_crosscity", ""),),
    "mapillary_vistas": ((vistas_specs, "toy_vistas", ""),),
    "cityscapes2": ((toy_cityscapes_specs, "toy_cityscapes2", ""),),
    "synthia_val": ((partial(synthia_specs, split="val"), "toy_synthia", ""),),
    "large": (
        (synthia_specs, "toy_large_synthia", "synthia"),
        (partial(synthia_specs, split="val"), "toy_large_synthia", "synthia_val"),
        (toy_cityscapes_specs, "toy_large_cityscapes", "cityscapes"),
    ),
    "foggy_cityscapes": tuple(
        (
            partial(toy_cityscapes_specs, images=foggy_images(beta)),
            f"toy_foggy_cityscapes_{beta}",
            "",
        )
        for beta in BETAS
    ),
}


def layout_root(layout: str = "") -> Path:
    """Returns the folder of a toy dataset, by default that of the default toy world."""
    return datasets_root() / (f"toy_{layout}" if layout else "toy")


def toy_specs(
    layout: str, root: Callable[[], Path], prepare: Callable[[], None] | None = None
) -> Iterator[DatasetSpec]:
    """Makes the datasets of a toy world.

    Args:
        layout: its name; "" for the default world.
        root: returns its folder; only called when a dataset is loaded.
        prepare: makes the files if there are none.
    """
    for specs, prefix, folder in _SPECS[layout]:
        yield from specs(prefix, partial(_below, root, folder), prepare)


def _below(root: Callable[[], Path], folder: str) -> Path:
    return root() / folder


def _write(root: Path, *layout: str) -> None:
    command = [sys.executable, "-m", "gbw_d2.toyworld", str(root), *layout]
    if run_to_end(command) != 0:
        raise DatasetError(f"no toy world could be written to {root}; the reason stands above")


def prepare_toy(layout: str = "") -> None:
    """Writes a toy world if it does not exist; a finished one is kept.

    Args:
        layout: its name; "" for the default world.

    Raises:
        DatasetError: the existing world has another version, or none can be written.
    """
    # Imported here, so that listing the datasets does not import the drawing code.
    from gbw_d2.toyworld.folder import MARKER
    from gbw_d2.toyworld.layouts import LAYOUTS
    from gbw_d2.toyworld.settings import FORMAT_VERSION

    root = layout_root(layout)
    if not (root / MARKER).is_file():
        _write(root, *filter(None, [layout]))
    _check_version(root / MARKER, "format_version", FORMAT_VERSION)
    if layout:
        _check_version(root / MARKER, "layout_version", LAYOUTS.get(layout).version)


def _check_version(marker: Path, key: str, wanted: int) -> None:
    from gbw_d2.toyworld.folder import read_marker

    found = read_marker(marker).get(key)
    if found != wanted:
        raise DatasetError(
            f"{marker.parent} holds a toy world of version {found}, this program makes version "
            f"{wanted} and their numbers differ: delete the folder, and it is made again"
        )


for _layout in _SPECS:
    register_datasets(
        toy_specs(_layout, partial(layout_root, _layout), partial(prepare_toy, _layout))
    )
