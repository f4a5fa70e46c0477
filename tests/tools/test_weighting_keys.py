"""docs/weighting_keys.md is what the settings dataclasses say."""

from __future__ import annotations

import weighting_keys

from gbw_d2.settings import config_keys
from gbw_d2.weighting import SCHEMES


def test_the_page_is_up_to_date() -> None:
    text = weighting_keys.PAGE.read_text()
    assert text == weighting_keys.page(), "run `uv run tools/weighting_keys.py`"
    for name in SCHEMES:
        for key in config_keys(SCHEMES.get(name).scheme.Settings):
            assert text.count(f"| `{key}` |") == 1
