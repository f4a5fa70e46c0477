"""Paths as people write them, with ``~`` and ``$VAR``."""

from __future__ import annotations

import os
import re

from gbw_d2.errors import UserError


class PathError(UserError):
    """A path names a variable that is not set."""


def expanded(text: str, where: str) -> str:
    """Writes ``~`` and ``$VAR`` of a path out.

    Args:
        text: the path.
        where: which file or key it stands in, for the error.

    Raises:
        PathError: a variable is not set.
    """
    path = os.path.expandvars(os.path.expanduser(text))
    unset = re.search(r"\$(\w+|\{\w+\})", path)
    if unset:
        raise PathError(f"{where}: '{text}' has {unset[0]}, which is not set in the environment")
    return path
