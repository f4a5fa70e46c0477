"""Kills runs at random moments, resumes them each time, and compares the ends: outside CI.

    uv run tests/torture/kills.py                                   # 20 kills for every pair
    uv run tests/torture/kills.py --kills 5 --families panoptic_deeplab --strategies cbst

For every network family and strategy there is an undisturbed run, and one that is killed (`kill -9`
of its whole process group) and resumed each time, on a toy world of 16 small images. A kill comes
after a certain line of the run's output, so that it does not depend on the load of the machine. One
kill in five comes during start-up. For the others, one of the phases of the undisturbed run is
drawn, then a line of this phase, then a part of the time until the next line. Runs are forked from
a process that has done the imports, which saves most of the processor time; half of those that are
killed during start-up are started as a user would start them. When a run is completed, everything
in its last checkpoint, all scores in metrics.json and class_weights.csv are compared with the
undisturbed run's, and a new run is started, until there were `--kills` kills. Before that, the
making of toy data (1300 images) is killed in the same way, after a number of files. Prints a
Markdown table. Exit code 1: something differs. Results: docs/reliability.md.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/helpers"))

from forked_runs import Started  # noqa: E402, I001  (before torch)

import torch  # noqa: E402
from strategies import FOR_ALL  # noqa: E402

from gbw_d2.results.reader import read_metrics  # noqa: E402
from gbw_d2.toyworld import ToyWorldSettings, write_toy_world  # noqa: E402

FAMILIES: dict[str, tuple[str, ...]] = {
    "panoptic_deeplab": (),
    "semantic": ("MODEL.SEMANTIC_ONLY", "True"),
    "panoptic_fpn": ("--with", "models/panoptic_fpn_tiny"),
    "mask2former": ("--with", "models/mask2former_tiny"),
}
# Strategies that only some networks can be trained by, with the family that is used for them.
MORE = {"mask2former": ("mask_teacher",), "panoptic_fpn": ("cvrn",)}
# Phase of a run -> pattern of the lines that tell of it.
PHASES = {
    "start-up": r"Rank of current process",
    "labelling": r"round_labeller",
    "evaluation": r"Start inference|Inference done|Total inference|engine\.evaluation",
    "checkpoint": r"Saved checkpoint",
    "training": r"iter: |Starting training",
}
SCORES = re.compile("IoU|PQ")
SMALL = ToyWorldSettings(image_size=(64, 128), num_source=8, num_target_train=6, num_target_val=2)


@dataclass(frozen=True)
class Line:
    """A line of a run's output, and the time at which it was read."""

    text: str
    seconds: float


@dataclass(frozen=True)
class Moment:
    """A moment of a run: after a number of lines, and then a number of seconds.

    Args:
        is_forked: False where the run is to be started as a user would.
    """

    lines: int
    delay: float
    is_forked: bool = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, runs every pair, prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="per pair; default: 20")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: 0")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--strategies", nargs="+", help="default: all that a family can use")
    parser.add_argument("--no-data", action="store_true", help="do not kill the making of data")
    args = parser.parse_args(arguments)
    wrong, rows = 0, []
    with tempfile.TemporaryDirectory() as folder:
        if not args.no_data:
            rows.append(("toy data", "-", *_data(Path(folder), args.kills, args.seed)))
        write_toy_world(Path(folder) / "datasets/toy", SMALL, workers=1)
        os.environ["DETECTRON2_DATASETS"] = f"{folder}/datasets"
        for family in args.families:
            known = (*FOR_ALL, *MORE.get(family, ()))
            for strategy in args.strategies or known:
                if strategy not in known:
                    continue
                out = Path(folder) / family / strategy
                rows.append((family, strategy, *_pair(out, family, strategy, args)))
                print(_row(rows[-1]), file=sys.stderr, flush=True)
    print("| family | strategy | kills | ends | kills while | differences |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(_row(row))
        wrong += row[-1]
    return 1 if wrong else 0


def _row(row: tuple[Any, ...]) -> str:
    return "| " + " | ".join(str(cell) for cell in row) + " |"


def command(
    family: str, strategy: str, out: Path, *more: str, processes: int = 1, steps: int = 4
) -> list[str]:
    """Returns the command line of a run of short steps, with an evaluation after half of them."""
    with_, keys = (), FAMILIES[family]
    if keys[:1] == ("--with",):
        with_, keys = keys, ()
    return [
        *(sys.executable, "train_net.py", "--config-file", "configs/toy/panoptic_source_only.yaml"),
        *("--num-processes", str(processes), *more, *with_),
        *("UDA.NAME", strategy, "WEIGHTING.NAME", "gbw", *keys),
        *("OUTPUT_DIR", str(out), "SOLVER.MAX_ITER", str(steps), "SOLVER.CHECKPOINT_PERIOD", "1"),
        *("SOLVER.LOG_PERIOD", "1", "TEST.EVAL_PERIOD", str(steps // 2), "EVAL.PICTURES", "0"),
        *("INPUT.CROP_SIZE", "(64, 128)", "INPUT.TEST_SIZE", "(64, 128)"),
        *("SOLVER.IMS_PER_BATCH", "2", "UDA.WARM_UP", "0.0", "UDA.CBST.ROUNDS", "2"),
        *("SOLVER.WARMUP_ITERS", "1", "DATALOADER.NUM_WORKERS", "0"),
    ]


def _pair(
    out: Path, family: str, strategy: str, args: argparse.Namespace
) -> tuple[int, int, str, int]:
    """Runs a pair; returns kills, completed runs, the phases of the kills, and differences."""
    whole, killed = out / "whole", out / "killed"
    lines, ended = _watch(Started(command(family, strategy, whole), is_forked=True))
    if not ended:
        raise SystemExit(f"{family}, {strategy}: the undisturbed run failed, see {whole}/log.txt")
    moments, phases, found, ends = random.Random(args.seed), Counter[str](), set[str](), 0
    words = command(family, strategy, killed, "--resume")
    while True:
        moment = _moment(lines, moments) if phases.total() < args.kills else None
        is_forked = moment is None or moment.is_forked
        said, ended = _watch(Started(words, is_forked), moment)
        if not ended:
            phases[phase([line.text for line in said])] += 1
            continue
        ends += 1
        found |= set(differences(*(written(run) for run in (whole, killed))))
        if moment is None:
            break
        shutil.rmtree(killed)
    for name in sorted(found)[:5]:
        print(f"{family}, {strategy}: {name} differs", file=sys.stderr)
    shutil.rmtree(out)
    when = ", ".join(f"{name} {number}" for name, number in phases.most_common())
    return args.kills, ends, when, len(found)


def _moment(lines: Sequence[Line], moments: random.Random) -> Moment:
    """Draws the moment at which a run is killed."""
    starts = next(i for i, line in enumerate(lines) if "Starting training" in line.text)
    if moments.random() < 0.2:
        is_forked = moments.random() < 0.5
        return Moment(moments.randint(1, starts), moments.uniform(0, 0.3), is_forked)
    by_phase: dict[str, list[int]] = {}
    for i in range(starts, len(lines) - 1):
        by_phase.setdefault(phase([line.text for line in lines[: i + 1]]), []).append(i)
    drawn = moments.choice(by_phase[moments.choice(sorted(by_phase))])
    gap = lines[drawn + 1].seconds - lines[drawn].seconds
    return Moment(drawn + 1, moments.random() * gap)


def _data(folder: Path, kills: int, seed: int) -> tuple[int, int, str, int]:
    """Makes toy data undisturbed and with kills; returns the same as ``_pair``, for files."""
    words = [sys.executable, "datasets/prepare_toy.py", "--workers", "1"]
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run(words, cwd=ROOT, env=_in(whole), check=True, stdout=subprocess.DEVNULL)
    made, moments = _hashes(whole), random.Random(seed)
    done = 0
    while done < kills:
        process = subprocess.Popen(
            words, cwd=ROOT, env=_in(killed), stdout=subprocess.DEVNULL, start_new_session=True
        )
        wanted = moments.randint(0, len(made))
        while process.poll() is None and _count(killed) < wanted:
            time.sleep(0.02)
        if process.poll() is None:
            done += 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        elif killed.exists():
            shutil.rmtree(killed)  # it was completed: start again
    subprocess.run(words, cwd=ROOT, env=_in(killed), check=True, stdout=subprocess.DEVNULL)
    found = _hashes(killed)
    wrong = {name for name in made.keys() | found.keys() if made.get(name) != found.get(name)}
    for name in sorted(wrong)[:5]:
        print(f"toy data: {name} differs", file=sys.stderr)
    return kills, 1, f"making {kills}", len(wrong)


def _in(root: Path) -> dict[str, str]:
    return {**os.environ, "DETECTRON2_DATASETS": str(root)}


def _count(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def _watch(run: Started, moment: Moment | None = None) -> tuple[list[Line], bool]:
    """Reads a run's output and kills it at a moment; returns the lines, and whether it completed.

    Raises:
        SystemExit: it ended with an error.
    """
    lines: list[Line] = []
    for text in run.output:
        lines.append(Line(text, time.monotonic()))
        if moment is not None and len(lines) == moment.lines:
            time.sleep(moment.delay)
            if run.is_running():
                run.kill()
                return lines, False
    if run.wait():
        raise SystemExit("".join(line.text for line in lines[-20:]))
    return lines, True


def phase(lines: Sequence[str]) -> str:
    """Names the phase of a run by the last line that tells one; those of tables do not."""
    for line in reversed(lines):
        for name, words in PHASES.items():
            if re.search(words, line):
                return name
    return "start-up"


def written(run: Path) -> dict[str, Any]:
    """Returns what a completed run has written: checkpoint, scores and class weights."""
    entries = read_metrics(run / "metrics.json")
    return {
        "checkpoint": load(run / "model_final.pth"),
        "scores": {e["iteration"]: {k: e[k] for k in e if SCORES.search(k)} for e in entries},
        "class weights": (run / "class_weights.csv").read_text(),
    }


def load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Returns the paths at which two checkpoints differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        lost = [f"{path}/{key}" for key in a.keys() ^ b.keys()]
        both = [key for key in a if key in b]
        return lost + [d for key in both for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return [path]
        return [d for i in range(len(a)) for d in differences(a[i], b[i], f"{path}/{i}")]
    equal = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if equal else [path]


if __name__ == "__main__":
    sys.exit(main())
