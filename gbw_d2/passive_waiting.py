"""Imported before torch: OpenMP's threads sleep while they wait, unless the environment says else.

By default they spin for a while, which takes the cores from other processes (loaders, a second
run). OpenMP reads the setting when it is loaded; loaders and children inherit it.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
