"""The toy world's twins of SYNTHIA and Cityscapes: made on first use, read by the same code."""

from __future__ import annotations

from pathlib import Path

from gbw_d2.data.catalog import datasets_root
from gbw_d2.data.formats.cityscapes import register_cityscapes
from gbw_d2.data.formats.synthia import register_synthia


def toy_root() -> Path:
    """Returns the toy world's folder."""
    return datasets_root() / "toy"


def prepare_toy() -> None:
    """Writes the toy world where it is missing."""
    from gbw_d2.data.toyworld import ensure_toy_world

    ensure_toy_world(toy_root())


register_synthia("toy_synthia", lambda: toy_root() / "synthia", prepare_toy)
register_cityscapes("toy_cityscapes", lambda: toy_root() / "cityscapes", prepare_toy)
