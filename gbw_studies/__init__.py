"""Studies: grids of runs, what came out of them, and their tables and pictures."""
