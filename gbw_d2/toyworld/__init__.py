"""The toy world: a procedural pair of street data sets on disk, in the official layouts.

The source looks like SYNTHIA-RAND-CITYSCAPES, the target like Cityscapes; between them lies a
domain gap with separate knobs (:class:`DomainGap`, numbers in ``looks.py``).
"""

from gbw_d2.toyworld.render import ToySample, render
from gbw_d2.toyworld.settings import (
    CROWDED_INDEX,
    DOMAINS,
    EMPTY_INDEX,
    FORMAT_VERSION,
    SPLITS,
    DomainGap,
    ToyWorldSettings,
)
from gbw_d2.toyworld.writer import (
    SUBFOLDERS,
    check_toy_world,
    ensure_toy_world,
    sample_files,
    write_toy_world,
)

__all__ = [
    "CROWDED_INDEX",
    "DOMAINS",
    "EMPTY_INDEX",
    "FORMAT_VERSION",
    "SPLITS",
    "SUBFOLDERS",
    "DomainGap",
    "ToySample",
    "ToyWorldSettings",
    "check_toy_world",
    "ensure_toy_world",
    "render",
    "sample_files",
    "write_toy_world",
]
