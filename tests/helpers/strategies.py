"""Which strategies every network can be trained by."""

from gbw_d2.uda import STRATEGIES

# Others ask for something that not all networks can do; they have tests of their own.
FOR_ALL = [name for name in STRATEGIES.names() if not STRATEGIES.get(name).asks_for]
