"""Replaces tracebacks of train_net.py's start-up by one line; to be imported before its packages.

Ctrl-C is handled by ``gbw_d2.commands.finish``; before it has begun, or when it is pressed again in
the meantime, the process says that it was stopped.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import TracebackType

_NEEDED = ("numpy", "yaml", "torch", "detectron2")


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _show
if _missing := [name for name in _NEEDED if find_spec(name) is None]:
    print(
        f"error: {sys.executable} has no {', '.join(_missing)}; run `uv run train_net.py ...`, "
        "which uses the project's environment (INSTALL.md)",
        file=sys.stderr,
    )
    sys.exit(2)
