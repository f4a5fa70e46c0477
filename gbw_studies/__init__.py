"""Studies: grids of runs, their results, and tables and plots of these."""

from gbw_d2 import passive_waiting  # noqa: F401  (the commands here run this before torch)
