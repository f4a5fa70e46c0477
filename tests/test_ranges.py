"""Numbers out of range stop a run before it starts, with key, value and range in one line."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import operator
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gbw_d2.commands import finish
from gbw_d2.config import ConfigError, add_gbw_config, load_config
from gbw_d2.engine.setup import setup
from gbw_d2.ranges import LENGTHS, NAMES, RANGES, check_ranges
from gbw_d2.settings import Declaration, declarations
from gbw_d2.unread_keys import advice, leaves
from gbw_d2.weighting import SCHEMES

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY


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
        ("INPUT.CROP_SIZE", (8.5, 8), "whole number"),
        ("INPUT.CROP_SIZE", (True, 8), "whole number"),
        ("SOLVER.BASE_LR", True, ">= 0"),
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


# Numbers without a range, and why.
WITHOUT = {"VERSION": "the one of Detectron2 alone is taken, by load_config"}
# Keys whose default says nothing of their type: these hold texts, or what their schemes declare.
NO_NUMBERS = (
    *("DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.TARGET", "EVAL.PROTOCOLS"),
    *("MODEL.FPN.IN_FEATURES", "MODEL.TIMM.PRETRAINED", "WEIGHTING."),
)


def numbers_of(value: Any) -> list[float]:
    """The numbers that a value consists of; [] where it holds anything else."""
    if isinstance(value, (list, tuple)):
        parts = [numbers_of(each) for each in value]
        return list(itertools.chain(*parts)) if all(parts) else []
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def read_by_something(key: str) -> bool:
    ours = (network for name, network in META_ARCH_REGISTRY if hasattr(network, "heads"))
    read = tuple(key for network in ours for key in getattr(network, "detectron2_keys", ()))
    return advice(key) is None or key.startswith(read)


def test_every_number_has_a_range() -> None:
    lacking = [
        key
        for key, value in leaves(config())
        if (numbers_of(value) or value in (None, (), []))
        and read_by_something(key)
        and key not in RANGES
        and key not in WITHOUT
        and not key.startswith(NO_NUMBERS)
    ]
    assert lacking == []
    assert [key for key in RANGES if not read_by_something(key)] == []


def test_every_number_of_a_scheme_has_a_range() -> None:
    # Its scheme compares the weights with its classes.
    lacking = {
        f"{name}: {field.name}"
        for name in SCHEMES
        for field, declared in declarations(SCHEMES.get(name).scheme.Settings)
        if numbers_of(field.default) or declared.per_class
        if declared.low is None and declared.high is None
    }
    assert lacking == {"fixed: class_weights"}


@pytest.mark.parametrize("key", NAMES)
def test_an_unknown_name(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} is 'none'; expected one of {NAMES[key][0]}, "):
        check_ranges(config(key, "none"))


def outside(declared: Declaration, default: Any) -> list[Any]:
    """Numbers that a range forbids."""
    if declared.choices is not None:
        return [max(declared.choices()) + 1]
    found: list[Any] = [] if declared.whole else [math.nan]
    if declared.low is not None:
        low = type(default)(declared.low)
        found += [low if declared.low_excluded else low - 1]
    if declared.high is not None and (declared.high < math.inf or declared.high_excluded):
        high = declared.high if declared.high == math.inf else type(default)(declared.high)
        found += [high if declared.high_excluded else high + 1]
    return found


def wrong_values() -> Iterator[tuple[str, Any, Declaration]]:
    """Yields every key with values out of its range, as they would stand in a YAML file."""
    defaults = dict(leaves(config()))
    for key, declared in RANGES.items():
        value = defaults[key]
        many = isinstance(value, (list, tuple))
        number = (numbers_of(value) or [1 if declared.whole or key in SIZES else 1.0])[0]
        # The elements of lists have no type of their own.
        wrong = [*outside(declared, number), *([1.5, True] if many and declared.whole else [])]
        count = max(LENGTHS.get(key, (len(value) or 1 if many else 1,)))
        for each in wrong:
            yield key, (each, *[number] * (count - 1)) if many else each, declared


SIZES = [key for key, lengths in LENGTHS.items() if 0 in lengths]


def test_every_value_out_of_its_range_is_told() -> None:
    cfg = config()
    for key, value, declared in wrong_values():
        *parents, last = key.split(".")
        node = functools.reduce(operator.getitem, parents, cfg)
        kept, node[last] = node[last], value
        with pytest.raises(ConfigError) as caught:
            check_ranges(cfg)
        node[last] = kept
        message = str(caught.value)
        assert message.startswith(f"{key} is {value!r}; expected ") and "\n" not in message
        assert message.endswith(declared.expected())


@pytest.mark.parametrize("step", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_through_the_set_up(
    step: int,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from gbw_d2 import config as module

    # Read from its files once; all that follows is done for every key.
    kept = module.compose(repository / "configs/toy/panoptic_fpn_gbw.yaml")
    monkeypatch.setattr(module, "compose", lambda *_: copy.deepcopy(kept))
    schemes: dict[str, str] = {}
    # For another type than the default's the message differs: it names the key and both types.
    kinds = {key: type(value) for key, value in leaves(config())}
    values = {
        key: (value, declared)
        for key, value, declared in wrong_values()
        if isinstance(value, (tuple, kinds[key])) or kinds[key] is type(None)
    }
    assert values.keys() == RANGES.keys()
    for name in SCHEMES:
        for field, declared in declarations(SCHEMES.get(name).scheme.Settings):
            if numbers_of(field.default):
                key = declared.key or field.name.upper()
                values[f"WEIGHTING.{key}"] = outside(declared, field.default)[-1], declared
                schemes[f"WEIGHTING.{key}"] = name
    for key, (value, declared) in list(values.items())[::step]:
        opts = [key, value, *(["WEIGHTING.NAME", schemes[key]] if key in schemes else [])]
        args = Namespace(config_file="x.yaml", opts=opts, eval_only=False, resume=False)
        assert finish(lambda args=args: setup(args) and None) == 2, key
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1 and shown.startswith(f"error: {key} is "), shown
        first = value[0] if isinstance(value, tuple) else value
        assert declared.expected() in shown and str(first) in shown, shown
