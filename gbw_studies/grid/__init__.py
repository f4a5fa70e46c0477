"""A grid of runs: its plan, its execution and its results file."""
