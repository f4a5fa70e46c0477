"""Studies: grids of runs, what came out of them, and their tables and pictures."""

from gbw_d2 import passive_waiting  # noqa: F401  (the commands here run this before torch)
