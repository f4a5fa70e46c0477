"""Composition of configs from base files, one for each of six axes.

A base file is called ``axis/name`` and is the file ``configs/base/<axis>/<name>.yaml``. A config
(leaf) names one base of each axis in ``_BASE_``, in the order of the axes; later files override
earlier ones. A replaced base is not read at all.
"""

from __future__ import annotations

import difflib
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gbw_d2.errors import UserError
from gbw_d2.former_names import former_name
from gbw_d2.paths import expanded
from gbw_d2.plain_files import ContentError, read_yaml

AXES = ("datasets", "encoders", "models", "schedules", "uda", "weighting")
BASES = Path(__file__).resolve().parents[1] / "configs" / "base"
OPTION = "--with"


class ConfigError(UserError):
    """A config cannot be read; the message names the file or key, and the known ones."""


def known_choices() -> dict[str, list[str]]:
    """Returns the names of the bases of each axis."""
    return {axis: sorted(p.stem for p in (BASES / axis).glob("*.yaml")) for axis in AXES}


def listing() -> str:
    """Returns a text that lists all axes and their bases."""
    lines = (f"{axis}: {' '.join(names)}" for axis, names in known_choices().items())
    return "\n".join((f"{OPTION} AXIS/NAME ... replaces the config's choice on that axis:", *lines))


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits ``axis/name ... KEY VALUE ...`` at the first word without a slash."""
    count = next((i for i, word in enumerate(words) if "/" not in word), len(words))
    return list(words[:count]), list(words[count:])


def split_command_line(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates ``--with axis/name ...`` from a command line.

    Returns:
        the choices, and all other arguments in their order.
    """
    if OPTION not in arguments:
        return [], list(arguments)
    start = list(arguments).index(OPTION)
    choices, rest = split_words(arguments[start + 1 :])
    return choices, [*arguments[:start], *rest]


def asks_for_listing(arguments: Sequence[str]) -> bool:
    """Whether a command line has ``--with`` and no choice after it."""
    return OPTION in arguments and not split_command_line(arguments)[0]


def parse(parse_args: Callable[[list[str]], Namespace], arguments: Sequence[str]) -> Namespace:
    """Parses a command line with ``--with``.

    Args:
        parse_args: method of a parser with ``opts``, the words ``KEY VALUE ...``.
        arguments: command line without the program's name.

    Returns:
        the parsed remaining arguments; ``opts`` begin with the choices, as in ``load_config``.

    Raises:
        ConfigError: a base is named where config keys are expected.
    """
    choices, rest = split_command_line(arguments)
    args = parse_args(rest)
    opts = args.opts or []
    if opts and "/" in opts[0]:
        raise ConfigError(f"'{opts[0]}' names a base, but {OPTION} is not right before it")
    args.opts = [*choices, *opts]
    return args


def compose(config_file: str | Path, choices: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a YAML file with its ``_BASE_`` files, some of which may be replaced.

    Args:
        config_file: path of the leaf.
        choices: ``axis/name`` for each axis to replace.

    Returns:
        the nested keys that the files set; choices that differ from the leaf's are appended to
        OUTPUT_DIR.

    Raises:
        ConfigError: a missing file, an unknown axis or name, an axis named twice or without a base
            in the leaf, or YAML that would execute code.
    """
    if not Path(config_file).is_file():
        raise ConfigError(
            f"config file '{config_file}' does not exist; see configs/ for those that do"
        )
    wanted = _checked(choices)
    found: dict[str, str] = {}
    content = _read(Path(config_file), wanted, found)
    if not content:
        raise ConfigError(f"{config_file}: it sets no key; configs/ has configs to begin with")
    missing = [axis for axis in wanted if axis not in found]
    if missing:
        raise ConfigError(
            f"{OPTION} {missing[0]}/{wanted[missing[0]]}: {config_file} names no base of axis "
            f"'{missing[0]}' that could be replaced (it names: {', '.join(found) or 'none'})"
        )
    new = [
        f"{axis}_{wanted[axis]}" for axis in AXES if wanted.get(axis) not in (None, found.get(axis))
    ]
    if new and content.get("OUTPUT_DIR"):
        content["OUTPUT_DIR"] = "-".join((content["OUTPUT_DIR"], *new))
    return content


def _checked(choices: Sequence[str]) -> dict[str, str]:
    """Returns the chosen name by axis."""
    known = known_choices()
    wanted: dict[str, str] = {}
    for word in choices:
        axis, _, name = word.partition("/")
        if name not in known.get(axis, ()):
            raise ConfigError(_unknown(word, known))
        if axis in wanted:
            raise ConfigError(f"{OPTION} names axis '{axis}' twice: {wanted[axis]} and {name}")
        wanted[axis] = name
    return wanted


def _unknown(word: str, known: Mapping[str, Sequence[str]]) -> str:
    axis, _, name = word.partition("/")
    words = [f"{axis}/{name}" for axis, names in known.items() for name in names]
    # The right name on a wrong axis is also a suggestion.
    same = [w for w in words if w.endswith(f"/{name}")]
    near = same or difflib.get_close_matches(word, words, n=3, cutoff=0.6)
    hint = former_name(name) or (f"; did you mean {' or '.join(near)}?" if near else "")
    there = f"{axis} has {', '.join(known[axis])}" if axis in known else f"axes: {', '.join(AXES)}"
    return f"{OPTION}: unknown base '{word}'{hint} ({there})"


def _read(
    path: Path, wanted: Mapping[str, str], found: dict[str, str], above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Reads a file after its bases; adds the bases of axes that it names to ``found``."""
    if path.resolve() in above:
        raise ConfigError(f"{path}: it is a base of itself, by {above[-1].name}; take it out")
    above = (*above, path.resolve())
    try:
        content = read_yaml(path) or {}
    except (ContentError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected KEY: VALUE lines, found {type(content).__name__}")
    bases = content.pop("_BASE_", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise ConfigError(f"{path}: _BASE_ is {base!r}; expected a file's name, or a list")
        file = path.parent / expanded(base, str(path))
        axis = file.parent.name
        if axis not in AXES:
            _merge(_read(file, wanted, found, above), merged)
            continue
        found[axis] = file.stem
        if axis in wanted and wanted[axis] != file.stem:
            file = BASES / axis / f"{wanted[axis]}.yaml"
        # Bases of a base file are not choices of the leaf.
        _merge(_read(file, {}, {}, above), merged)
    _merge(content, merged)
    return merged


def _merge(new: Mapping[str, Any], into: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(value, into[key])
        else:
            into[key] = value
