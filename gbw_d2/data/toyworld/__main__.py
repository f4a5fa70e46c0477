"""Writes the default toy world: ``python -m gbw_d2.data.toyworld FOLDER``.

Training calls this in a process of its own, since worker processes import the main program anew,
and train_net.py takes ten seconds to import. ``datasets/prepare_toy.py`` is for people.
"""

import sys
from pathlib import Path

from gbw_d2.data.catalog import DatasetError
from gbw_d2.data.toyworld.writer import ensure_toy_world

if __name__ == "__main__":
    try:
        ensure_toy_world(Path(sys.argv[1]))
    except DatasetError as error:
        sys.exit(str(error))
