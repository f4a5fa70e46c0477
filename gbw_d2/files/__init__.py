"""Writing files whole or not at all, and one process at a time."""
