"""Numbers out of range stop a run before it starts, with key, value and range in one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from gbw_d2.config import ConfigError, add_gbw_config, load_config
from gbw_d2.ranges import RANGES, check_ranges
from gbw_d2.unread_keys import leaves

from detectron2.config import CfgNode, get_cfg


def config(key: str = "", value: Any = None) -> CfgNode:
    cfg = get_cfg()
    add_gbw_config(cfg)
    if key:
        node: Any = cfg
        *parents, last = key.split(".")
        for parent in parents:
            node = node[parent]
        node[last] = value
    return cfg


def test_defaults_and_all_configs_are_in_range(repository: Path) -> None:
    check_ranges(config())
    for path in sorted((repository / "configs").rglob("*.yaml")):
        if "base" not in path.parts:
            check_ranges(load_config(str(path)))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("INPUT.SCALE_RANGE", (0.5,), "two numbers"),
        ("INPUT.SCALE_RANGE", (2.0, 0.5), r"\(least, greatest\)"),
        ("INPUT.SCALE_RANGE", (0.0, 1.0), "> 0"),
        ("INPUT.COLOR_JITTER", 1.5, ">= 0 and <= 1"),
        ("INPUT.GAUSSIAN_SIGMA", 0, "> 0"),
        ("INPUT.TEST_SIZE", (512,), "rows, columns"),
        ("INPUT.CROP_SIZE", (0, 8), ">= 1"),
        ("UDA.SELF_TRAINING.EMA_DECAY", 1.5, "<= 1"),
        ("UDA.SELF_TRAINING.CONFIDENCE_THRESHOLD", 1.1, "<= 1"),
        ("UDA.SELF_TRAINING.CONFIDENCE_THRESHOLD", math.nan, "<= 1"),
        ("SOLVER.BASE_LR", math.inf, "finite"),
        ("SEED", 2**32, "<= 4.29497e"),
    ],
)
def test_out_of_range(key: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} is .*; expected .*{words}") as caught:
        check_ranges(config(key, value))
    assert "\n" not in str(caught.value)


def test_every_number_of_a_strategy_has_a_range() -> None:
    # Checked by their strategies, which know how they depend on each other.
    own = ("UDA.SELF_TRAINING.IGNORE_", "UDA.CBST.ROUNDS", "UDA.CBST.WARM_UP", "PORTION")
    numbers = [
        key
        for key, value in leaves(config())
        if key.startswith("UDA.")
        and not isinstance(value, bool)
        and isinstance(value, (int, float))
        and not any(part in key for part in own)
    ]
    assert [key for key in numbers if key not in RANGES] == []
