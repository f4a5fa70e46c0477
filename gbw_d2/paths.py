"""Expansion of ``~`` and ``$VAR`` in paths."""

from __future__ import annotations

import os
import re

from gbw_d2.errors import UserError


class PathError(UserError):
    """A path contains an environment variable that is not set."""


def expanded(text: str, where: str) -> str:
    """Expands ``~`` and ``$VAR`` in a path.

    Args:
        text: the path.
        where: the file or key that contains it, for the error message.

    Raises:
        PathError: a variable is not set.
    """
    path = os.path.expandvars(os.path.expanduser(text))
    unset = re.search(r"\$(\w+|\{\w+\})", path)
    if unset:
        raise PathError(f"{where}: '{text}' has {unset[0]}, which is not set in the environment")
    return path
