"""Tables of runs in output folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gbw_d2.errors import UserError
from gbw_d2.results.reader import read_results, run_names
from gbw_studies.results.cells import cell, table

NOT_THE_RECIPE = ("SEED", "OUTPUT_DIR")

Run = dict[str, Any]


def read_run(folder: Path) -> Run:
    """Reads a run's results.json and adds its folder.

    Raises:
        UserError: there is none.
    """
    results = read_results(folder)
    return results | {"folder": folder if folder.is_dir() else folder.parent}


def group_by_recipe(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Groups runs by recipe, in their order."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        config = {k: v for k, v in run["run"]["config"].items() if k not in NOT_THE_RECIPE}
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    names = run_names([group[0]["folder"] for group in groups.values()])
    return dict(zip(names, groups.values(), strict=True))


def metrics_table(groups: Mapping[str, Sequence[Run]], metrics: Sequence[str]) -> str:
    """Writes one row per recipe, one column per metric."""
    shown = [m for m in metrics if any(m in r["metrics"] for g in groups.values() for r in g)]
    rows = []
    for name, runs in groups.items():
        seeds = ", ".join(str(r["run"]["seed"]) for r in runs)
        rows.append([name, seeds, *(cell([r["metrics"].get(m) for r in runs]) for m in shown)])
    return table(["recipe", "seeds", *shown], rows)


def classes_table(groups: Mapping[str, Sequence[Run]], score: str, protocol: str) -> str:
    """Writes one row per class, one column per recipe."""
    first = next(iter(groups.values()))[0]["per_class"]
    if protocol not in first:
        raise UserError(f"no scores under protocol '{protocol}' (there are: {', '.join(first)})")
    rows = []
    for name in first[protocol]:
        cells = [
            cell([r["per_class"].get(protocol, {}).get(name, {}).get(score) for r in runs])
            for runs in groups.values()
        ]
        rows.append([name, *cells])
    return table([f"{score} ({protocol})", *groups], rows)
