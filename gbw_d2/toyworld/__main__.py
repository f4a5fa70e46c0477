"""Writes a default toy dataset: ``python -m gbw_d2.toyworld FOLDER [LAYOUT]``.

Without a layout it is the toy world itself, the twins of SYNTHIA and Cityscapes. Training calls
this in a separate process, because worker processes import the main program again, and importing
train_net.py takes ten seconds. Users call ``datasets/prepare_toy.py``.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from gbw_d2.commands import INTERRUPTED, finish
from gbw_d2.toyworld.layouts import LAYOUTS, write_layout
from gbw_d2.toyworld.writer import ensure_toy_world


def main() -> None:
    """Writes the toy dataset that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("layout", nargs="?")
    args = parser.parse_args()
    if args.layout is None:
        ensure_toy_world(args.folder)
    else:
        write_layout(args.folder, LAYOUTS.get(args.layout))


def _end(number: int, _: object) -> NoReturn:
    # SIGTERM acts like Ctrl-C, so that incomplete files are removed; the sender reports the reason.
    # Where it goes to the whole process group, training sends another one.
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(INTERRUPTED)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(finish(main, "the same command continues where this one stopped"))
