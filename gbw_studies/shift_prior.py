#!/usr/bin/env python3
"""Applies a prior shift towards rare classes to trained networks, and evaluates the effect.

    uv run -m gbw_studies.shift_prior output/toy/semantic_source_only output/toy/semantic_gbw
    uv run -m gbw_studies.shift_prior output/none_* output/gbw_* --names none none GBW GBW
    uv run -m gbw_studies.shift_prior output/toy/semantic_source_only --save 0.2 shifted.pth

Adds -strength log(share of class c) to the logits of class c, where the shares are those of the
source's labelled pixels (Menon et al., Long-tail learning via logit adjustment, ICLR 2021, eq. 9).
This trades precision for recall of rare classes, for any network, with or without class weights. A
fair comparison of two networks is at the same recall, or with each at its best strength. The
semantic branch of the network named by the run's EVAL.WEIGHTS is evaluated. --save writes the first
network with the shift in its classifier's bias, for MODEL.WEIGHTS.

Nothing is trained. Writes plots/prior_shift.png and, after each run, prior_shift.csv into the first
folder. Choosing a strength by these numbers uses the test set's labels: report that, or choose on
the source's validation set.
"""

from __future__ import annotations

import argparse
import copy
import functools
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2.commands import finish
from gbw_d2.errors import UserError
from gbw_d2.files.atomic import write_atomically
from gbw_d2.results.writer import write_csv
from gbw_d2.visualization import COLORS
from gbw_studies.results.plots import write_png
from gbw_studies.results.prior_shift import (
    MEASURES,
    Point,
    as_cells,
    as_text,
    averaged,
    draw,
    mean_of_known,
)

STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Basis:
    """Protocol and rare classes, which two runs must share to be comparable."""

    protocol: str
    rare: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A run that is scored.

    Args:
        name: shown in tables; runs with the same name are averaged.
        folder: its OUTPUT_DIR.
        data: its datasets; its resolved config is ``data.cfg``.
        class_counts: (K,) labelled pixels of its source by class id.
        basis: protocol and rare classes of its scores.
    """

    name: str
    folder: Path
    data: Any
    class_counts: Tensor
    basis: Basis


def shifts_of(class_counts: Tensor, strengths: Sequence[float]) -> Tensor:
    """Computes the shifts that are added to the logits.

    Args:
        class_counts: (K,) labelled pixels of the source by class id.
        strengths: S numbers; 0 leaves the network unchanged.

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
    """Evaluates each image with each shift of the logits, (S, K), one per evaluator."""
    for batch in batches:
        with torch.no_grad():
            results = network(batch)
        for evaluator, shift in zip(evaluators, shifts, strict=True):
            shifted = [
                {"sem_seg": r["sem_seg"] + shift.view(-1, 1, 1).to(r["sem_seg"].device)}
                for r in results
            ]
            evaluator.process(batch, shifted)


def shift_prior_(network: nn.Module, shift: Tensor) -> None:
    """Adds a shift (K,) to the bias of the network's semantic classifier, in place.

    Raises:
        UserError: there is no classifier of pixels, or it has no bias.
    """
    head = network.sem_seg_head
    predictor = getattr(head, "predictor", None)
    if predictor is None:  # a mask classifier
        raise UserError(
            f"{type(head).__name__} has no classifier of pixels to whose bias the shift could be "
            "added; leave --save out"
        )
    biases = [m.bias for m in predictor.modules() if isinstance(m, nn.Conv2d)]
    # If several branches are summed, one of them gets the whole shift.
    if not biases or biases[0] is None:
        raise UserError(f"{type(predictor).__name__} has no bias to which the shift could be added")
    with torch.no_grad():
        biases[0] += shift.to(biases[0].device)


def basis_of(cfg: Any, class_counts: Tensor, number: int) -> Basis:
    """Finds the protocol, and the rarest of its classes that the source has.

    Args:
        cfg: of the run.
        class_counts: (K,) labelled pixels of the source by class id.
        number: of rare classes.
    """
    from gbw_d2.catalog import get_dataset
    from gbw_d2.engine.evaluation import meet_test_set
    from gbw_d2.evaluation.protocols import chosen_protocols
    from gbw_d2.label_spaces import LABEL_SPACES

    space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
    met = meet_test_set(cfg, get_dataset(cfg.DATASETS.TEST[0]))
    protocol = chosen_protocols(met, cfg.EVAL.PROTOCOLS)[0]
    order = [
        class_id
        for class_id in class_counts.argsort(stable=True).tolist()
        if class_counts[class_id] > 0 and space.class_names[class_id] in protocol.classes
    ]
    return Basis(protocol.name, tuple(space.class_names[class_id] for class_id in order[:number]))


def _scores(evaluator: Any, basis: Basis) -> dict[str, float | None]:
    metrics, classes = evaluator.evaluate(), evaluator.per_class[basis.protocol]
    found = {name: metrics[f"{name}_{basis.protocol}"] for name in MEASURES[:3]}
    for measure in ("IoU", "recall"):
        found[f"rare {measure}"] = mean_of_known(classes[name][measure] for name in basis.rare)
    return found


def load_config_of(folder: Path, test: Sequence[str], opts: Sequence[str]) -> Any:
    """Returns the resolved config of a run that can be scored.

    Raises:
        UserError: the folder lacks its config or its last checkpoint, or the config cannot be used.
    """
    from gbw_d2.config import load_config
    from gbw_d2.inference.network import resolve_for

    for name in ("config.yaml", "last_checkpoint"):
        if not (folder / name).is_file():
            raise UserError(
                f"'{folder}' has no {name}; give the OUTPUT_DIR of a run that has ended"
            )
    cfg = load_config(str(folder / "config.yaml"), opts)
    if test:
        cfg.DATASETS.TEST = tuple(test)
    resolve_for(cfg, "auto")
    return cfg


def load_runs(args: argparse.Namespace) -> list[Run]:
    """Reads all runs before the first is scored, so that mistakes in any of them show at once.

    Raises:
        UserError: a run cannot be scored, or cannot be compared with the first.
    """
    from gbw_d2.engine.run_data import RunData

    runs: list[Run] = []
    for name, folder in zip(args.names, args.runs, strict=True):
        cfg = load_config_of(folder, args.test, args.opts)
        data = RunData(cfg)
        data.prepare(training=True)
        counts = data.class_counts
        run = Run(name, folder, data, counts, basis_of(cfg, counts, args.rare))
        runs.append(run)
        first = runs[0].basis
        if run.basis != first:
            raise UserError(
                f"'{folder}' is scored by protocol {run.basis.protocol}, rare classes "
                f"{', '.join(run.basis.rare)}; '{args.runs[0]}' by {first.protocol}, "
                f"{', '.join(first.rare)}: they cannot be compared; score them one by one"
            )
    return runs


def score_run(
    run: Run, network: nn.Module, weights: str, strengths: Sequence[float]
) -> list[Point]:
    """Scores one network at all strengths on all its test sets.

    Args:
        run: the run of the network.
        network: in evaluation mode.
        weights: student or teacher.
        strengths: of the shift.
    """
    from gbw_d2.engine.batches import build_test_batches
    from gbw_d2.engine.evaluation import meet_test_set
    from gbw_d2.evaluation.evaluators import SemanticEvaluator
    from gbw_d2.evaluation.protocols import chosen_protocols

    points = []
    shifts = shifts_of(run.class_counts, strengths)
    for dataset in run.data.cfg.DATASETS.TEST:
        listed = run.data.test_set(dataset)
        met = meet_test_set(run.data.cfg, listed.spec)
        protocols = chosen_protocols(met, (run.basis.protocol,))
        read = read_once(listed.spec.translated(met.truth, met.space).read_semantic)
        evaluators = [SemanticEvaluator(read, met, protocols) for _ in strengths]
        score(network, build_test_batches(run.data.cfg, listed.records), evaluators, shifts)
        for strength, evaluator in zip(strengths, evaluators, strict=True):
            place = run.name, str(run.folder), weights, dataset, strength
            points.append(Point(*place, _scores(evaluator, run.basis)))
    return points


def read_once(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a reader that does not read a record again if it was the previous one."""
    last: list[Any] = [None, None]

    @functools.wraps(read)
    def reader(record: Any) -> Any:
        if last[0] is not record:
            last[:] = record, read(record)
        return last[1]

    return reader


def score_runs(args: argparse.Namespace, out: Path) -> list[Point]:
    """Scores all runs, and saves the first one with --save.

    Args:
        args: of the command line.
        out: folder of prior_shift.csv.

    Raises:
        UserError: a run cannot be scored, or cannot be compared with the first.
    """
    from gbw_d2.inference.network import load_network

    runs = load_runs(args)
    print(f"rare classes: {', '.join(runs[0].basis.rare)}")
    points: list[Point] = []
    for place, run in enumerate(runs):
        weights = args.weights_of or run.data.cfg.EVAL.WEIGHTS
        print(f"{run.folder}, {weights} ({place + 1} of {len(runs)})", flush=True)
        network = load_network(run.data.cfg, str(run.folder), weights)
        if place == 0 and args.save:
            save(network, shifts_of(run.class_counts, [args.save[0]])[0], args.save[1])
            if run.data.cfg.EVAL.WEIGHTS != "student":
                print("score it with EVAL.WEIGHTS student")
        points += score_run(run, network, weights, args.strengths)
        write_csv(out / "prior_shift.csv", [as_cells(point) for point in points])
    return points


def save(network: nn.Module, shift: Tensor, path: Path) -> None:
    """Writes a copy of a network with a shift (K,) in its classifier's bias."""
    shifted = copy.deepcopy(network)
    shift_prior_(shifted, shift)
    content = io.BytesIO()
    torch.save({"model": shifted.state_dict()}, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
    print(f"wrote {path}")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add(
        "runs", type=Path, nargs="+", metavar="OUTPUT_DIR", help="folders of runs with a checkpoint"
    )
    add("--names", nargs="+", help="one per run; runs with the same name are averaged")
    add("--strengths", type=float, nargs="+", default=STRENGTHS, help="default: 0 to 0.5")
    add("--test", nargs="+", default=[], help="test sets; default: the run's")
    add("--rare", type=int, default=6, help="number of rare classes, by the source; default: 6")
    add("--weights-of", choices=("student", "teacher"), help="default: EVAL.WEIGHTS of the run")
    add(
        "--save", nargs=2, metavar=("STRENGTH", "FILE.pth"), help="write the first network, shifted"
    )
    add("--out", type=Path, help="folder; default: plots/ of the first run")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config, last")
    return made


def check(args: argparse.Namespace) -> None:
    """Completes the arguments in place.

    Raises:
        UserError: they cannot be used.
    """
    if args.names is None:
        names = [run.name for run in args.runs]
        # Folders with the same name are different networks.
        args.names = names if len(set(names)) == len(names) else [str(run) for run in args.runs]
    if len(args.names) != len(args.runs):
        raise UserError(f"--names has {len(args.names)} names for {len(args.runs)} runs")
    if len(set(args.names)) > len(COLORS):
        raise UserError(
            f"at most {len(COLORS)} networks can be distinguished, found {len(set(args.names))}; "
            "group them: --names has one name per run, and runs with the same name are averaged"
        )
    if args.rare < 1:
        raise UserError(f"--rare is {args.rare}; expected 1 or more")
    if args.save:
        strength, path = args.save[0], Path(args.save[1])
        try:
            args.save = float(strength), path
        except ValueError as error:
            raise UserError(f"--save's strength is '{strength}'; expected a number") from error
        if path.suffix != ".pth" or path.exists():
            raise UserError(f"--save's file is '{path}'; expected a new one that ends with .pth")


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, scores and draws."""
    args = parser().parse_args(arguments)
    out = args.out or args.runs[0] / "plots"

    def work() -> None:
        check(args)
        points = score_runs(args, out)
        means = averaged(points)
        write_png(draw(means), out / "prior_shift.png")
        print(f"{as_text(means)}\n\nwrote {out / 'prior_shift.csv'} and {out / 'prior_shift.png'}")

    return finish(work)


if __name__ == "__main__":
    sys.exit(main())
