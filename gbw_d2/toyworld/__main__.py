"""Writes a default toy dataset: ``python -m gbw_d2.toyworld FOLDER [LAYOUT]``.

Without a layout it is the toy world itself, the twins of SYNTHIA and Cityscapes. Training calls
this in a process of its own, since worker processes import the main program anew, and train_net.py
takes ten seconds to import. ``datasets/prepare_toy.py`` is for people.
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
    """Reads the command line and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("layout", nargs="?")
    args = parser.parse_args()
    if args.layout is None:
        ensure_toy_world(args.folder)
    else:
        write_layout(args.folder, LAYOUTS.get(args.layout))


def _end(*_: object) -> NoReturn:
    # As by Ctrl-C, half-written files are removed; whoever ends this process says why.
    raise SystemExit(INTERRUPTED)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(finish(main, "the same command goes on where this one stopped"))
