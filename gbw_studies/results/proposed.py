"""Proposed arms compared with the baseline and each rival, by recipe and over all recipes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gbw_studies.results.cells import table
from gbw_studies.results.comparison import MEASURES, Difference, pair_count, paired_differences
from gbw_studies.results.rows import Results, Run
from gbw_studies.results.tables import COMPARED, difference_cell, marked

CAPTION = """\
`{proposed}` minus the baseline and minus each rival, over pairs of runs with the same recipe and
seed. "all recipes" takes the seeds that all of these recipes have. Runs with the same seed share
the network's initial weights and the order of the images, so its interval resamples whole seeds."""
ALL = "all recipes"


def proposed_tables(results: Results) -> str:
    """Writes the differences of each proposed arm to the baseline and each rival, by dataset.

    Args:
        results: of a study.

    Returns:
        Markdown; empty if the study proposes no arm or none of them has run.
    """
    datasets = dict.fromkeys(name for run in results.runs for name in run.scores)
    sections = []
    for arm in results.study.proposed:
        tables = {name: proposed_table(results, arm, name) for name in datasets}
        parts = [f"### {name}\n\n{text}" for name, text in tables.items() if text]
        if parts:
            head = f"## {marked(results, arm)} against its rivals"
            sections += [head, CAPTION.format(proposed=arm), *parts]
    return "\n\n".join(sections)


def proposed_table(results: Results, arm: str, dataset: str) -> str:
    """Writes a row per rival and recipe, and one for all recipes if there are several.

    Args:
        results: of a study.
        arm: a proposed one; the other proposed arms count as rivals here.
        dataset: a test set.

    Returns:
        Markdown; empty if there is no pair.
    """
    study = results.study
    ours = _runs(results, arm, dataset)
    found = []
    others = (study.baseline, *study.rivals, *study.proposed)
    for other in (name for name in others if name != arm):
        theirs = _runs(results, other, dataset)
        by_recipe = {
            recipe: paired_differences(
                study.rare, dataset, [r for r in ours if r.recipe == recipe], theirs
            )
            for recipe in study.recipes
        }
        by_recipe = {recipe: there for recipe, there in by_recipe.items() if there}
        # Only seeds that all recipes have, so that a recipe with more seeds does not dominate.
        if len(by_recipe) > 1:
            common = _common_seeds(by_recipe.values())
            shared = [run for run in ours if run.recipe in by_recipe and run.seed in common]
            by_recipe[ALL] = paired_differences(study.rare, dataset, shared, theirs)
        by_recipe = {recipe: there for recipe, there in by_recipe.items() if there}
        found += [(marked(results, other), name, there) for name, there in by_recipe.items()]
    if not found:
        return ""
    shown = [m.name for m in MEASURES if m.name in COMPARED]
    shown = [name for name in shown if any(name in there for _, _, there in found)]
    rows = [
        [other, recipe, str(pair_count(there)), *(difference_cell(there.get(m)) for m in shown)]
        for other, recipe, there in found
    ]
    return table(["minus", "recipe", "pairs", *(f"Δ {name}" for name in shown)], rows)


def _runs(results: Results, arm: str, dataset: str) -> list[Run]:
    return [run for run in results.runs if run.arm == arm and dataset in run.scores]


def _common_seeds(recipes: Iterable[Mapping[str, Difference]]) -> set[int]:
    seeds = [{seed for d in there.values() for _, seed in d.values} for there in recipes]
    return set.intersection(*seeds)
