"""Names of configs and command lines in earlier versions, and their replacements."""

from __future__ import annotations

FORMER_NAMES = {
    # WEIGHTING.NAME, and weighting/... of --with
    "gbw_equal_pull": "it is called 'gbw_balanced' now",
    "gbw_equal_pull_all_heads": "'gbw_balanced' weights all heads now",
    "gbw_balanced_all_heads": "'gbw_balanced' weights all heads now",
    "gbw_all_heads": "'gbw' weights all heads now",
    "gbw_fading": "it was taken out; 'gbw' took its place",
    # WEIGHTING.MEASURE
    "interference": "it was taken out; 'class_gradient' took its place",
    # WEIGHTING.SCALE
    "initial": "it was taken out with the scheme 'gbw_fading'; 'relative' took its place",
    # Keys
    "EVAL.BEST_ON_TARGET_LABELS": "it is called EVAL.BEST_ON now",
}


def former_name(name: object) -> str:
    """Returns the replacement of a former name as part of an error message; "" for other names."""
    known = FORMER_NAMES.get(name) if isinstance(name, str) else None
    return f"; {known}" if known else ""
