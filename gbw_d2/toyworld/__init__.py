"""The toy world: a pair of procedurally generated street datasets on disk, in official layouts.

The source looks like SYNTHIA-RAND-CITYSCAPES, the target like Cityscapes; they differ by a domain
gap with separate knobs (:class:`DomainGap`, numbers in ``looks.py``).
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
