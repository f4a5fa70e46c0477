"""The strategies by which every network can be trained."""

from gbw_d2.uda import STRATEGIES

# Other strategies need capabilities that only some networks have; they have their own tests.
FOR_ALL = [name for name in STRATEGIES.names() if not STRATEGIES.get(name).asks_for]
