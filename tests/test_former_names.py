"""Names of earlier versions in configs and command lines: one line names the replacement."""

from __future__ import annotations

from typing import Any

import pytest

from gbw_d2.composition import ConfigError as CompositionError
from gbw_d2.composition import known_choices
from gbw_d2.config import load_config
from gbw_d2.errors import UserError
from gbw_d2.former_names import FORMER_NAMES, former_name
from gbw_d2.weighting import SCHEMES, build_scheme

LEAF = "configs/toy/semantic_source_only.yaml"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (("NAME", "gbw_equal_pull"), "'gbw_equal_pull'; it is called 'gbw_balanced' now"),
        (("NAME", "gbw_fading"), "'gbw_fading'; it was taken out; 'gbw' took its place"),
        (("MEASURE", "interference"), "'interference'; it was taken out; 'class_gradient' took"),
        (("SCALE", "initial"), "'gbw_fading'; 'relative' took its place; expected one of"),
    ],
)
def test_keys_of_earlier_versions(tiny_config: Any, keys: tuple[str, str], told: str) -> None:
    name = () if keys[0] == "NAME" else ("WEIGHTING.NAME", "gbw")
    with pytest.raises(UserError) as caught:
        tiny_config(*name, f"WEIGHTING.{keys[0]}", keys[1])
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("gbw_equal_pull", "it is called 'gbw_balanced' now"),
        ("gbw_equal_pull_all_heads", "'gbw_balanced' weights all heads now"),
        ("gbw_all_heads", "'gbw' weights all heads now"),
        ("gbw_fading", "'gbw' took its place"),
    ],
)
def test_bases_of_earlier_versions(repository: Any, word: str, told: str) -> None:
    with pytest.raises(CompositionError, match=f"unknown base 'weighting/{word}'; .*{told}"):
        load_config(str(repository / LEAF), [f"weighting/{word}"])


def test_keys_that_have_another_name(tiny_config: Any) -> None:
    with pytest.raises(UserError, match=r"unknown config key EVAL.BEST_ON_TARGET_LABELS; it is ca"):
        tiny_config("EVAL.BEST_ON_TARGET_LABELS", "mIoU_16")


def test_a_former_name_is_no_present_one() -> None:
    choices = known_choices()
    assert not FORMER_NAMES.keys() & {*SCHEMES.names(), *choices["weighting"]}
    assert former_name("gbw") == former_name(3) == ""
    for name in ("gbw_balanced", "gbw"):
        assert build_scheme(name, 3).name == name
