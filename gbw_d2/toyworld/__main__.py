"""Writes a default toy dataset: ``python -m gbw_d2.toyworld FOLDER [LAYOUT]``.

Without a layout it is the toy world itself, the twins of SYNTHIA and Cityscapes. Training calls
this in a process of its own, since worker processes import the main program anew, and train_net.py
takes ten seconds to import. ``datasets/prepare_toy.py`` is for people.
"""

import sys
from pathlib import Path

from gbw_d2.errors import UserError
from gbw_d2.toyworld.layouts import LAYOUTS, write_layout
from gbw_d2.toyworld.writer import ensure_toy_world

if __name__ == "__main__":
    try:
        if len(sys.argv) > 2:
            write_layout(Path(sys.argv[1]), LAYOUTS.get(sys.argv[2]))
        else:
            ensure_toy_world(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
