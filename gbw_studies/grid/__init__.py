"""A grid of runs: its plan, its queue, its ledger."""
