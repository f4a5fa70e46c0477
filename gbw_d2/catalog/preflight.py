"""Looks for the data before anything heavy is imported: a missing folder is told in seconds."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from gbw_d2.catalog.lookup import find_label_space, get_dataset
from gbw_d2.composition import compose, split_command_line
from gbw_d2.data.formats.own import is_description
from gbw_d2.data.spec import DatasetError


def check_data(arguments: Sequence[str]) -> None:
    """Looks for the files of every dataset that a run will read and that are not made on the way.

    What is wrong with config keys and options is left to their own readers, which are heavier and
    say it better.

    Args:
        arguments: the command line of train_net.py, without the program's name.

    Raises:
        DatasetError: files are missing; the message says which, where, and what makes them.
        UnknownNameError: there is no such dataset.
        ConfigError: the config file is not there or cannot be read, or a base that ``--with`` names
            is not there.
    """
    datasets = _dataset_keys(list(arguments))
    keys = ("TEST",) if "--eval-only" in arguments else ("TRAIN", "TARGET", "TEST")
    space = datasets.get("LABEL_SPACE")
    # Scored weights have classes of their own.
    if isinstance(space, str) and is_description(space) and "TRAIN" in keys:
        find_label_space(space)
    for key in keys:
        for name in _names(datasets.get(key)):
            _look(name)


def _look(name: str) -> None:
    try:
        get_dataset(name).look()
    except DatasetError as error:
        raise DatasetError(
            f"dataset '{name}': {error}\nTo try everything without any data: "
            "--config-file configs/toy/panoptic_gbw.yaml makes its own toy world"
        ) from error


def _dataset_keys(arguments: list[str]) -> dict[str, Any]:
    choices, rest = split_command_line(arguments)
    words = [part for argument in rest for part in argument.split("=", 1)]
    pairs = list(pairwise(words))
    config_file = next((value for word, value in pairs if word == "--config-file"), "")
    if not config_file:
        return {}
    found = compose(config_file, choices).get("DATASETS", {})
    keys = dict(found) if isinstance(found, Mapping) else {}
    overrides = {word: value for word, value in pairs if word.startswith("DATASETS.")}
    return keys | {word.removeprefix("DATASETS."): value for word, value in overrides.items()}


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return []
    return [n for n in value if isinstance(n, str)] if isinstance(value, (tuple, list)) else []
