"""The format of numbers in Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def cell(values: Sequence[float | None]) -> str:
    """Writes mean and spread of the defined values, or ``-`` if there is none."""
    defined = [v for v in values if v is not None]
    if not defined:
        return "-"
    mean = f"{statistics.mean(defined):.1f}"
    return mean if len(defined) == 1 else f"{mean} ± {statistics.stdev(defined):.1f}"


def line(cells: Sequence[str]) -> str:
    """Writes one row of a table."""
    return f"| {' | '.join(cells)} |"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a whole table."""
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])
