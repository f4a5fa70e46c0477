#!/usr/bin/env python3
"""Tilts trained networks towards rare classes, without training, and shows what that gains.

    uv run tools/tilt_logits.py output/toy/semantic_self_training output/toy/semantic_gbw
    uv run tools/tilt_logits.py output/none_* output/gbw_* --names none none GBW GBW
    uv run tools/tilt_logits.py output/toy/semantic_self_training --save 0.2 tilted.pth

Adds -strength log(share of class c) to the logits of class c, the shares being those of the
source's labelled pixels (Menon et al., Long-tail learning via logit adjustment, ICLR 2021, eq. 9):
recall of rare classes against precision, for any network, whatever weights it was trained with. Two
networks are compared fairly at the same recall, or each at its best strength. Scores are those of
the semantic branch. --save writes the first network with the tilt in its classifier's bias, for
MODEL.WEIGHTS.

Writes plots/tilt.png and tilt.csv into the first folder. A strength that is chosen by these numbers
is chosen on the test set's labels: say so, or choose on the source's validation set.
"""

from __future__ import annotations

import argparse
import copy
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from plot_run import COLORS
from results.plots import write_png
from torch import Tensor, nn

from gbw_d2.errors import UserError
from gbw_d2.evaluation.report import write_atomically

STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
MEASURES = ("mIoU", "recall", "precision", "rare IoU", "rare recall")


@dataclass(frozen=True)
class Point:
    """Scores, 0 to 100, of one network on one test set at one strength."""

    name: str
    run: str
    dataset: str
    strength: float
    scores: Mapping[str, float]


def shifts_of(class_counts: Tensor, strengths: Sequence[float]) -> Tensor:
    """Computes what is added to the logits.

    Args:
        class_counts: (K,) labelled pixels of the source by class id.
        strengths: S numbers; 0 for the network as it is.

    Returns:
        (S, K) float32; the mean over the classes is 0, and a class that the source lacks has 0.
    """
    counts = class_counts.double()
    known = counts > 0
    logs = torch.where(known, counts.clamp(min=1).log(), 0.0)
    centred = torch.where(known, logs.sum() / known.sum().clamp(min=1) - logs, 0.0)
    return torch.outer(torch.tensor(strengths, dtype=torch.float64), centred).float()


def score(
    network: nn.Module, batches: Iterable[Any], evaluators: Sequence[Any], shifts: Tensor
) -> None:
    """Shows each image to each evaluator with its own shift of the logits, (S, K)."""
    for batch in batches:
        with torch.no_grad():
            results = network(batch)
        for evaluator, shift in zip(evaluators, shifts, strict=True):
            shifted = [
                {"sem_seg": r["sem_seg"] + shift.view(-1, 1, 1).to(r["sem_seg"].device)}
                for r in results
            ]
            evaluator.process(batch, shifted)


def tilt_(network: nn.Module, shift: Tensor) -> None:
    """Adds a shift (K,) to the bias of the network's semantic classifier, in place.

    Raises:
        UserError: the classifier has no bias.
    """
    predictor = network.sem_seg_head.predictor
    biases = [m.bias for m in predictor.modules() if isinstance(m, nn.Conv2d)]
    # Of branches that are summed, one takes it all.
    if not biases or biases[0] is None:
        raise UserError(f"{type(predictor).__name__} has no bias to put the tilt into")
    with torch.no_grad():
        biases[0] += shift.to(biases[0].device)


def _scores(evaluator: Any, protocol: str, rare: Sequence[str]) -> dict[str, float]:
    metrics, classes = evaluator.evaluate(), evaluator.per_class[protocol]
    found = {name: metrics[f"{name}_{protocol}"] for name in ("mIoU", "recall", "precision")}
    for measure in ("IoU", "recall"):
        values = [classes[name][measure] for name in rare if name in classes]
        values = [value for value in values if value is not None]
        found[f"rare {measure}"] = sum(values) / len(values) if values else None
    return {name: float("nan") if value is None else value for name, value in found.items()}


def run_points(args: argparse.Namespace, place: int) -> list[Point]:
    """Scores one run at all strengths on all test sets, and saves it where that is asked for.

    Args:
        args: of the command line.
        place: of the run in it.
    """
    from gbw_d2.config import load_config
    from gbw_d2.data.label_spaces import LABEL_SPACES
    from gbw_d2.engine.build import (
        build_test_batches,
        load_records,
        prepare_datasets,
        source_class_counts,
    )
    from gbw_d2.evaluation.evaluators import SemanticEvaluator
    from gbw_d2.inference.network import load_network, resolve_for

    run = args.runs[place]
    if not (run / "config.yaml").is_file():
        raise UserError(f"'{run}' has no config.yaml; give the OUTPUT_DIR of a run")
    cfg = load_config(str(run / "config.yaml"), args.opts)
    resolve_for(cfg, "auto")
    prepare_datasets(cfg, training=True)
    network = load_network(cfg, str(run), args.weights_of)
    counts = source_class_counts(cfg)
    space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
    rare = [space.class_names[c] for c in counts.argsort(stable=True)[: args.rare].tolist()]
    if place == 0 and args.save is not None:
        save(network, shifts_of(counts, [float(args.save[0])])[0], Path(args.save[1]))
    points = []
    for dataset in args.test or cfg.DATASETS.TEST:
        spec, records = load_records((dataset,), "--test")
        if spec.read_semantic is None:
            raise UserError(f"--test '{dataset}' has no labels to score by")
        evaluators = [
            SemanticEvaluator(spec.read_semantic, space.to_train_id, cfg.EVAL.PROTOCOLS)
            for _ in args.strengths
        ]
        shifts = shifts_of(counts, args.strengths)
        score(network, build_test_batches(cfg, records), evaluators, shifts)
        for strength, evaluator in zip(args.strengths, evaluators, strict=True):
            scores = _scores(evaluator, cfg.EVAL.PROTOCOLS[0], rare)
            points.append(Point(args.names[place], str(run), dataset, strength, scores))
    return points


def save(network: nn.Module, shift: Tensor, path: Path) -> None:
    """Writes a copy of a network with a shift (K,) in its classifier's bias."""
    tilted = copy.deepcopy(network)
    tilt_(tilted, shift)
    content = io.BytesIO()
    torch.save({"model": tilted.state_dict()}, content)
    write_atomically(path, content.getvalue())
    print(f"wrote {path}")


def averaged(points: Sequence[Point]) -> list[Point]:
    """Averages the runs of one name; the order of names, test sets and strengths is kept."""
    groups: dict[tuple[str, str, float], list[Point]] = {}
    for point in points:
        groups.setdefault((point.name, point.dataset, point.strength), []).append(point)
    return [
        Point(
            *(name, f"{len(group)} runs", dataset, strength),
            {m: sum(p.scores[m] for p in group) / len(group) for m in MEASURES},
        )
        for (name, dataset, strength), group in groups.items()
    ]


def as_text(points: Sequence[Point]) -> str:
    """Writes a Markdown table."""
    lines = ["| test set | network | strength | " + " | ".join(MEASURES) + " |"]
    lines.append("|" + "---|" * (3 + len(MEASURES)))
    for point in points:
        numbers = " | ".join(f"{point.scores[measure]:.1f}" for measure in MEASURES)
        lines.append(f"| {point.dataset} | {point.name} | {point.strength:g} | {numbers} |")
    return "\n".join(lines)


def as_csv(points: Sequence[Point]) -> str:
    """Writes a line per run, test set and strength."""
    lines = [",".join(("name", "run", "dataset", "strength", *MEASURES))]
    for point in points:
        numbers = (f"{point.scores[measure]:.3f}" for measure in MEASURES)
        lines.append(
            ",".join((point.name, point.run, point.dataset, f"{point.strength:g}", *numbers))
        )
    return "\n".join(lines) + "\n"


def draw(points: Sequence[Point]) -> Figure:
    """Draws mIoU and rare IoU over rare recall: a row per test set, a line per network."""
    datasets = list(dict.fromkeys(point.dataset for point in points))
    names = list(dict.fromkeys(point.name for point in points))
    figure = Figure(figsize=(9, 0.6 + 3.6 * len(datasets)), layout="constrained")
    grid = figure.subplots(len(datasets), 2, squeeze=False)
    for dataset, line in zip(datasets, grid, strict=True):
        for measure, axes in zip(("mIoU", "rare IoU"), line, strict=True):
            for name, color in zip(names, COLORS, strict=False):
                own = [p for p in points if (p.dataset, p.name) == (dataset, name)]
                x, y = ([p.scores[m] for p in own] for m in ("rare recall", measure))
                axes.plot(x, y, color=color, marker="o", markersize=4, linewidth=1.8, label=name)
                for point, across, up in zip(own, x, y, strict=True):
                    axes.annotate(
                        f"{point.strength:g}",
                        (across, up),
                        xytext=(0, 5),
                        textcoords="offset points",
                        ha="center",
                        fontsize=7,
                        color=color,
                    )
            axes.set_xlabel("rare recall")
            axes.set_ylabel(measure)
            axes.grid(alpha=0.25)
            axes.margins(0.08)  # room for the numbers
        line[0].set_title(dataset, loc="left", fontsize=10, fontweight="bold")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("runs", type=Path, nargs="+", metavar="OUTPUT_DIR", help="of a run, with its checkpoint")
    add("--names", nargs="+", help="one per run; those of one name are averaged")
    add("--strengths", type=float, nargs="+", default=STRENGTHS, help="default: 0 to 0.5")
    add("--test", nargs="+", help="test sets; default: the run's")
    add("--rare", type=int, default=6, help="that many rarest classes of the source; default: 6")
    add("--weights-of", choices=("student", "teacher"), default="student", help="which network")
    add("--save", nargs=2, metavar=("STRENGTH", "FILE"), help="write the first network, tilted")
    add("--out", type=Path, help="folder; default: plots/ of the first run")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config, last")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, scores, draws."""
    made = parser()
    args = made.parse_args(arguments)
    args.names = args.names or [run.name for run in args.runs]
    if len(args.names) != len(args.runs):
        made.error(f"--names has {len(args.names)} names for {len(args.runs)} runs")
    if len(set(args.names)) > len(COLORS):
        made.error(f"at most {len(COLORS)} names can be told apart, found {len(set(args.names))}")
    out = args.out or args.runs[0] / "plots"
    points: list[Point] = []
    try:
        for place, run in enumerate(args.runs):
            print(f"{run} ({place + 1} of {len(args.runs)})", flush=True)
            points += run_points(args, place)
        means = averaged(points)
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "tilt.csv", as_csv(points).encode())
        write_png(draw(means), out / "tilt.png")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{as_text(means)}\n\nwrote {out / 'tilt.csv'} and {out / 'tilt.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
