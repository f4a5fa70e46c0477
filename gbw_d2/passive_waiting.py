"""Lets OpenMP's threads sleep while they wait; to be imported before PyTorch.

By default they spin for a while, which takes cores from other processes (loaders, a second run).
OpenMP reads the variable when it is loaded, and child processes inherit it. A value that is already
set is kept.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
