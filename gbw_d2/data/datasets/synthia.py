"""SYNTHIA-RAND-CITYSCAPES, the labelled synthetic source (9400 images)."""

from __future__ import annotations

from gbw_d2.data.catalog import datasets_root
from gbw_d2.data.formats.synthia import register_synthia

register_synthia("synthia", lambda: datasets_root() / "synthia")
