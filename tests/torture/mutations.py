"""Ways to damage a file, by its kind.

The first argument of every function is the random generator; it returns the content of the new
file. Nothing here does harm: code in a file only makes an empty folder, which the tests look for.
"""

from __future__ import annotations

from byte_mutations import CANARY, Mutation, changed_bytes, cut_or_foreign
from png_mutations import changed_chunks, changed_pixels
from text_mutations import (
    changed_cells,
    changed_json,
    changed_json_line,
    changed_text,
    changed_yaml,
    other_json,
    other_yaml,
)
from weight_mutations import (
    MakesAFolder,
    changed_array,
    changed_pickle,
    changed_safetensors,
    changed_weights,
)

__all__ = [
    "ARRAY",
    "BINARY",
    "CANARY",
    "CSV",
    "JSON",
    "JSON_LINES",
    "PKL",
    "PNG",
    "PTH",
    "SAFETENSORS",
    "TEXT",
    "YAML",
    "MakesAFolder",
    "Mutation",
]

BINARY: tuple[Mutation, ...] = (changed_bytes, cut_or_foreign)
TEXT: tuple[Mutation, ...] = (changed_bytes, cut_or_foreign, changed_text)
YAML = (*TEXT, changed_text, changed_yaml, changed_yaml, changed_yaml, other_yaml)
JSON = (*TEXT, changed_text, changed_json, changed_json, changed_json, changed_json, other_json)
JSON_LINES = (*TEXT, changed_json_line, changed_json_line)
CSV = (*TEXT, changed_cells, changed_cells)
PNG = (*BINARY, changed_chunks, changed_chunks, changed_pixels, changed_pixels)
PTH = (*BINARY, changed_weights, changed_weights)
PKL = (*BINARY, changed_pickle, changed_pickle)
SAFETENSORS = (*BINARY, changed_safetensors, changed_safetensors)
ARRAY = (*BINARY, changed_array)
