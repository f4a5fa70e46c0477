"""Regions of interest: proposals, their labels, the heads' losses, and pasted masks."""
