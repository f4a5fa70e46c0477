#!/usr/bin/env python3
"""Writes docs/weighting_keys.md: every key of every weighting scheme, its default and its range.

    uv run tools/weighting_keys.py

The page is made from the settings dataclasses of gbw_d2/weighting, the only place where they are
declared. A test compares the two.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from gbw_d2 import passive_waiting  # noqa: F401  # isort: skip  (before torch)

from gbw_d2.commands import finish
from gbw_d2.files.atomic import write_atomically
from gbw_d2.settings import Declaration, declarations, merge_settings
from gbw_d2.weighting import SCHEMES, SchemeSettings

PAGE = Path(__file__).resolve().parents[1] / "docs/weighting_keys.md"

HEAD = """# Keys of the weighting schemes

Made by `uv run tools/weighting_keys.py` from the settings of the schemes. `WEIGHTING.NAME` chooses
the scheme; a key that is not set (`None`) has the scheme's own default; a key that the scheme does
not have is refused. Which value to choose: [gbw.md](gbw.md#how-to-choose-the-keys).
"""


def page() -> str:
    """Returns the page's text."""
    parts = [HEAD]
    common = {field.name for field, _ in declarations(SchemeSettings)}
    for title, wanted in (("Keys of every scheme", True), ("Keys of some schemes", False)):
        rows = ["| key | meaning | allowed | default |", "|---|---|---|---|"]
        for field, declared in _fields().items():
            if (field in common) == wanted:
                rows.append(_row(field, declared))
        parts.append(f"## {title}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _fields() -> dict[str, Declaration]:
    """Returns every setting of any scheme; if several declare one, their meanings are joined."""
    first: dict[str, Declaration] = {}
    meanings: dict[str, dict[str, None]] = {}
    for name in SCHEMES:
        for field, declared in declarations(SCHEMES.get(name).scheme.Settings):
            first.setdefault(field.name, declared)
            meanings.setdefault(field.name, {})[declared.meaning] = None
    return {
        field: replace(declared, meaning=" Or: ".join(meanings[field]))
        for field, declared in first.items()
    }


def _row(field: str, declared: Declaration) -> str:
    defaults: dict[str, list[str]] = {}
    for name in SCHEMES:
        entry = SCHEMES.get(name)
        settings = merge_settings(entry.scheme.Settings, name, entry.defaults)
        if hasattr(settings, field):
            defaults.setdefault(f"`{getattr(settings, field)}`", []).append(f"`{name}`")
    if len(defaults) == 1:
        (value, names) = next(iter(defaults.items()))
        shown = value if len(names) == len(SCHEMES.names()) else f"{value} ({', '.join(names)})"
    else:
        shown = "; ".join(f"{value}: {', '.join(names)}" for value, names in defaults.items())
    key = declared.key or field.upper()
    allowed = declared.expected() or ("one per class" if declared.per_class else "True or False")
    return f"| `{key}` | {declared.meaning} | {allowed} | {shown} |"


def main() -> None:
    """Writes the page."""
    write_atomically(PAGE, page())
    print(PAGE)


if __name__ == "__main__":
    sys.exit(finish(main))
