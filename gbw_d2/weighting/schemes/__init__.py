"""The weighting schemes, one per file; importing this package fills the registry."""

from gbw_d2.weighting.schemes import (
    effective_number,
    fixed,
    focal,
    gbw,
    inverse_frequency,
    none,
)

__all__ = [
    "effective_number",
    "fixed",
    "focal",
    "gbw",
    "inverse_frequency",
    "none",
]
