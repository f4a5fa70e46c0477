"""Checks a command line before large libraries are imported, so that errors appear in seconds."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from gbw_d2.catalog.lookup import find_label_space, get_dataset
from gbw_d2.composition import compose, split_command_line
from gbw_d2.data.formats.own import is_description
from gbw_d2.data.spec import DatasetError
from gbw_d2.key_names import read_key_names, unknown_key

# Options of train_net.py that take a value; all others are flags.
VALUED_OPTIONS = (
    *("--config-file", "--num-gpus", "--num-machines", "--machine-rank", "--dist-url"),
    "--num-processes",
)
LONE_OPTIONS = ("--resume", "--eval-only", "--check")


def check_data(arguments: Sequence[str]) -> None:
    """Checks that the files of every dataset of a run exist, unless the run makes them itself.

    Errors in options and in the values of keys are left to their parsers, which are slower to
    import but have better messages.

    Args:
        arguments: the command line of train_net.py, without the program's name.

    Raises:
        DatasetError: files are missing; the message says which, where, and how to make them.
        UnknownNameError: a dataset is unknown.
        ConfigError: the config file, or a base that ``--with`` names, does not exist or cannot be
            read.
    """
    prefix = "DATASETS."
    values = read_values(arguments)
    datasets = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
    keys = ("TEST",) if "--eval-only" in arguments else ("TRAIN", "TARGET", "TEST")
    space = datasets.get("LABEL_SPACE")
    # With --eval-only the classes are those of the weights.
    if isinstance(space, str) and is_description(space) and "TRAIN" in keys:
        find_label_space(space)
    for key in keys:
        for name in _names(datasets.get(key)):
            _look(name)


def check_keys(arguments: Sequence[str]) -> None:
    """Checks the config file and the command line for unknown config keys.

    Args:
        arguments: the command line of train_net.py, without the program's name.

    Raises:
        ConfigError: a key is unknown, or a config file has an error as in :func:`check_data`.
    """
    choices, rest = split_command_line(arguments)
    options, words = split_options(rest)
    config_file = options.get("--config-file", "")
    known = read_key_names()
    if not config_file or known is None:
        return
    content = compose(config_file, choices)
    for where, names in ((config_file, known.names_in(content)), ("command line", words[::2])):
        wrong = known.first_unknown(names)
        if wrong is not None:
            raise unknown_key(where, wrong, known.leaves)


def read_values(arguments: Sequence[str]) -> dict[str, Any]:
    """Reads the values that the config file and the command line set, without checking them.

    Args:
        arguments: the command line of train_net.py, without the program's name.

    Returns:
        The values by full name of their key, as text if the command line sets them; empty without a
        config file.

    Raises:
        ConfigError: the config file, or a base that ``--with`` names, does not exist or cannot be
            read.
    """
    choices, rest = split_command_line(arguments)
    words = [part for argument in rest for part in argument.split("=", 1)]
    pairs = list(pairwise(words))
    config_file = next((value for word, value in pairs if word == "--config-file"), "")
    if not config_file:
        return {}
    values = dict(_flat(compose(config_file, choices)))
    return values | {word: value for word, value in pairs if "." in word}


def _flat(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def split_options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Separates the options of train_net.py from a command line.

    Args:
        arguments: the command line without the program's name and without ``--with``.

    Returns:
        The values by option, "" for flags, and the words KEY VALUE ...; both empty if an option is
        unknown.
    """
    options: dict[str, str] = {}
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        option, is_joined, value = arguments[at].partition("=")
        at += 1
        if option in VALUED_OPTIONS and not is_joined:
            value, at = "".join(arguments[at : at + 1]), at + 1
        elif option not in VALUED_OPTIONS and (option not in LONE_OPTIONS or is_joined):
            return {}, []
        options[option] = value
    return options, list(arguments[at:])


def _look(name: str) -> None:
    try:
        get_dataset(name).look()
    except DatasetError as error:
        raise DatasetError(
            f"dataset '{name}': {error}\nTo try everything without any data: "
            "--config-file configs/toy/panoptic_gbw.yaml makes its own toy world"
        ) from error


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return []
    return [n for n in value if isinstance(n, str)] if isinstance(value, (tuple, list)) else []
