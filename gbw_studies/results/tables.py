"""A study's Markdown tables and CSV rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from gbw_studies.grid.ledger import mean
from gbw_studies.results.cells import cell, table
from gbw_studies.results.comparison import (
    MEASURES,
    Difference,
    Row,
    Section,
    deviation,
    pair_count,
    sections,
)
from gbw_studies.results.rows import Results

# The measures whose differences are shown; table.csv has all measures.
COMPARED = ("mIoU", "rare IoU", "rare recall", "PQ")

CAPTION = """\
Scores are from 0 to 100: mean ± sample standard deviation over seeds. "rare" is the mean
over {rare}.
A difference Δ is the score of an arm minus that of `{baseline}` with the same seed; the tables show
its mean over seeds and, from 3 seeds on, the 95 % percentile bootstrap interval of this mean.
**Bold: the interval excludes 0.** Intervals over 3 to 5 seeds are too narrow. In each column, of
arms without any effect, chance alone would make bold about one in four with 3 seeds, one in six
with 5 and one in ten with 10 (simulated with normally distributed differences). Step time and
memory are means over seeds relative to `{baseline}`; they are inaccurate if other programs used the
machine."""

CHOSEN = """\
By their scores with seeds {first} on {sets}, some arms were chosen for further seeds. This choice
makes their differences over all seeds too favourable. A second table has the further seeds only."""

FRESH = "With the seeds that were not used for the choice:"


def study_tables(results: Results) -> str:
    """Writes the tables of every recipe and dataset.

    Args:
        results: of a study.

    Returns:
        Markdown.
    """
    rare = ", ".join(results.study.rare) or "no class"
    parts = [CAPTION.format(rare=rare, baseline=results.study.baseline)]
    if results.first_seeds:
        sets = ", ".join(results.study.choose.datasets) or "all test sets"
        parts.append(CHOSEN.format(first=_listed(results.first_seeds), sets=sets))
    all_seeds = {run.seed for run in results.runs}
    fresh = sorted(all_seeds - set(results.first_seeds)) if results.first_seeds else []
    fresh_sections = {(s.recipe, s.dataset): s for s in sections(results, fresh)}
    for section in sections(results):
        parts.append(f"## {section.recipe}, {section.dataset}")
        parts.append(scores_table(results, section))
        parts.append(differences_table(results, section))
        later = fresh_sections.get((section.recipe, section.dataset))
        if later is not None and any(row.differences for row in later.rows):
            parts += [FRESH, differences_table(results, later, cost=False)]
    return "\n\n".join([*parts, provenance(results)])


def marked(results: Results, arm: str) -> str:
    """Writes an arm with its role."""
    role = results.role(arm)
    return f"`{arm}` ({role})" if role else f"`{arm}`"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def scores_table(results: Results, section: Section) -> str:
    """Writes a row per arm: seeds and scores."""
    shown = section.measures()
    rows = []
    for row in section.rows:
        failed = sum(name[:2] == (section.recipe, row.arm) for name in results.failed)
        seeds = f"{len(row.seeds)}, {failed} failed" if failed else str(len(row.seeds))
        rows.append([marked(results, row.arm), seeds, *(cell(row.values[m.name]) for m in shown)])
    return table(["arm", "seeds", *(m.name for m in shown)], rows)


def differences_table(results: Results, section: Section, cost: bool = True) -> str:
    """Writes a row per arm except the baseline: common seeds, paired differences, cost."""
    shown = [m.name for m in section.measures() if m.name in COMPARED]
    rows = []
    for row in section.rows:
        if row.role == "baseline":
            continue
        pairs = pair_count(row.differences)
        cells = [difference_cell(row.differences.get(name)) for name in shown]
        if cost:
            cells += [_ratio(row.step_ratio), _ratio(row.memory_ratio)]
        rows.append([marked(results, row.arm), str(pairs), *cells])
    head = ["arm", "pairs", *(f"Δ {name}" for name in shown)]
    return table([*head, "step time", "memory"] if cost else head, rows)


def difference_cell(difference: Difference | None) -> str:
    """Writes mean and interval, in bold if the interval excludes 0."""
    if difference is None:
        return "-"
    text = signed(difference.mean)
    if difference.interval is not None:
        text += f" [{', '.join(map(signed, difference.interval))}]"
    return f"**{text}**" if difference.excludes_zero else text


def signed(value: float) -> str:
    """Writes a difference with its sign and one digit."""
    return f"{round(value, 1) + 0.0:+.1f}"  # + 0.0: no -0.0


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} x"


def provenance(results: Results) -> str:
    """Writes the machine and versions of the runs, and which runs are missing or left out."""
    runs = results.runs
    lines = [
        f"{len(runs)} runs. Machine: {_counted([r.machine for r in runs])}. "
        f"Iterations: {_counted([str(r.iterations) for r in runs])}. "
        f"Package: {_counted([r.package for r in runs])}."
    ]
    for origin, number in Counter(run.taken_from for run in runs if run.taken_from).items():
        lines.append(f"{number} of them are runs of studies/{origin}.yaml.")
    packages = Counter(run.package for run in runs).most_common()
    for package, _ in packages[1:]:
        arms = dict.fromkeys(f"{r.recipe} {r.arm}" for r in runs if r.package == package)
        lines.append(f"**Several versions of the package:** {package} made {', '.join(arms)}.")
    if results.failed:
        names = ", ".join(f"{recipe} {arm} {seed}" for recipe, arm, seed in results.failed)
        lines.append(
            f"**Ended with an error and are left out of the means:** {names} (recipe, arm, seed)."
        )
    ran = {(run.recipe, run.arm) for run in runs} | {name[:2] for name in results.failed}
    missing = [f"{pair[0]} {pair[1]}" for pair in results.study.pairs() if pair not in ran]
    if missing:
        lines.append(f"Not run yet: {', '.join(missing)}.")
    if results.unknown:
        lines.append(
            f"Left out, because {results.study.path.name} does not have them: "
            f"{', '.join(results.unknown)}."
        )
    return "\n\n".join(lines)


def _counted(words: Sequence[str]) -> str:
    counts = Counter(words).most_common()
    return counts[0][0] if len(counts) == 1 else "; ".join(f"{w} ({n} runs)" for w, n in counts)


def classes_tables(results: Results, shown: Sequence[Section], arms: Sequence[str]) -> str:
    """Writes a table per recipe and score: a row per class, a column per arm; * marks rare."""
    parts = []
    for section in shown:
        rows = [row for arm in arms if (row := section.row(arm)) is not None]
        names = dict.fromkeys(name for row in rows for name in row.classes)
        parts.append(f"## {section.recipe}, {section.dataset}")
        for score in section.scores():
            body = []
            for name in names:
                cells = [cell(row.classes.get(name, {}).get(score, ())) for row in rows]
                body.append([f"{name} *" if name in results.study.rare else name, *cells])
            parts.append(table([score, *(marked(results, row.arm) for row in rows)], body))
    return "\n\n".join(parts)


def arm_rows(found: Sequence[Section]) -> list[dict[str, Any]]:
    """Returns the rows of table.csv: one per recipe, dataset and arm."""
    return [_arm_row(section, row) for section in found for row in section.rows]


def _arm_row(section: Section, row: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "dataset": section.dataset,
        "recipe": section.recipe,
        "arm": row.arm,
        "role": row.role,
        "seeds": " ".join(map(str, row.seeds)),
    }
    for measure in MEASURES:
        column = measure.name.replace(" ", "_")
        cells |= {
            column: mean(row.values[measure.name]),
            f"{column}_sd": deviation(row.values[measure.name]),
        }
    for measure in MEASURES:
        column = f"d_{measure.name.replace(' ', '_')}"
        difference = row.differences.get(measure.name)
        low, high = difference.interval if difference and difference.interval else (None, None)
        cells |= {
            column: difference.mean if difference else None,
            f"{column}_low": low,
            f"{column}_high": high,
            f"{column}_pairs": len(difference.values) if difference else 0,
        }
    cells |= {
        "step_seconds": row.step_seconds,
        "step_ratio": row.step_ratio,
        "peak_memory_mb": row.peak_memory_mb,
        "memory_ratio": row.memory_ratio,
    }
    return {key: _rounded(value) for key, value in cells.items()}


def class_rows(found: Sequence[Section]) -> list[dict[str, Any]]:
    """Returns the rows of per_class.csv: one per recipe, dataset, arm, class and score."""
    return [
        {
            "dataset": section.dataset,
            "recipe": section.recipe,
            "arm": row.arm,
            "class": name,
            "score": score,
            "mean": _rounded(mean(values)),
            "sd": _rounded(deviation(values)),
            "seeds": sum(value is not None for value in values),
        }
        for section in found
        for row in section.rows
        for name, scores in row.classes.items()
        for score, values in scores.items()
    ]


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
