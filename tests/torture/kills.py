"""Kills runs at random moments, resumes them each time, and compares the ends: outside CI.

    uv run tests/torture/kills.py                                   # 20 kills for every pair
    uv run tests/torture/kills.py --kills 5 --families panoptic_deeplab --strategies cbst

For every network family and strategy: one undisturbed run, then one that is killed (`kill -9`, its
whole process group) `--kills` times at moments drawn evenly over the undisturbed run's length, from
start-up to the last evaluation, and resumed each time. All that the last checkpoint holds must be
equal. Before that the same for the making of the toy data, file by file. Prints a Markdown table;
exit code 1 where anything differs. What it came to: docs/reliability.md.
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/helpers"))

from gbw_d2 import passive_waiting  # noqa: E402, F401, I001  (before torch)

import torch  # noqa: E402
from strategies import FOR_ALL  # noqa: E402

FAMILIES: dict[str, tuple[str, ...]] = {
    "panoptic_deeplab": (),
    "semantic": ("MODEL.SEMANTIC_ONLY", "True"),
    "panoptic_fpn": ("--with", "models/panoptic_fpn_tiny"),
    "mask2former": ("--with", "models/mask2former_tiny"),
}
# What only this family can be trained by.
MORE = {"mask2former": ("mask_teacher",)}
# What the log's last line says about the moment of a kill, most specific first.
PHASES = {
    "labelling": r"[Pp]seudo-label|round",
    "evaluation": r"[Ee]valuat|mIoU|PQ",
    "checkpoint": r"Saved checkpoint",
    "training": r"iter: |Starting training",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, runs every pair, prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="per pair; default: 20")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: 0")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--strategies", nargs="+", help="default: all that a family can use")
    parser.add_argument("--no-data", action="store_true", help="leave the making of data out")
    args = parser.parse_args(arguments)
    wrong, rows = 0, []
    with tempfile.TemporaryDirectory() as folder:
        if not args.no_data:
            rows.append(("toy data", "-", *_data(Path(folder), args.kills, args.seed)))
        for family in args.families:
            known = (*FOR_ALL, *MORE.get(family, ()))
            for strategy in args.strategies or known:
                if strategy not in known:
                    continue
                out = Path(folder) / family / strategy
                rows.append((family, strategy, *_pair(out, family, strategy, args)))
                print(_row(rows[-1]), file=sys.stderr, flush=True)
    print("| family | strategy | kills | while | differences |\n|---|---|---|---|---|")
    for row in rows:
        print(_row(row))
        wrong += row[-1]
    return 1 if wrong else 0


def _row(row: tuple[Any, ...]) -> str:
    return "| " + " | ".join(str(cell) for cell in row) + " |"


def command(family: str, strategy: str, out: Path, *more: str) -> list[str]:
    """Returns the command line of a run of six short steps with an evaluation in their midst."""
    with_, keys = (), FAMILIES[family]
    if keys[:1] == ("--with",):
        with_, keys = keys, ()
    return [
        *(sys.executable, "train_net.py", "--config-file", "configs/toy/panoptic_source_only.yaml"),
        *(*more, *with_, "UDA.NAME", strategy, "WEIGHTING.NAME", "gbw", *keys),
        *("OUTPUT_DIR", str(out), "SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "1"),
        *("SOLVER.LOG_PERIOD", "1", "TEST.EVAL_PERIOD", "3", "EVAL.PICTURES", "0"),
        *("INPUT.CROP_SIZE", "(64, 128)", "INPUT.TEST_SIZE", "(64, 128)"),
        *("SOLVER.IMS_PER_BATCH", "2", "UDA.WARM_UP", "0.0", "UDA.CBST.ROUNDS", "2"),
        *("SOLVER.WARMUP_ITERS", "1", "DATALOADER.NUM_WORKERS", "0"),
    ]


def _pair(out: Path, family: str, strategy: str, args: argparse.Namespace) -> tuple[int, str, int]:
    """Runs a pair undisturbed and killed; returns kills, when they were, and differences."""
    start = time.monotonic()
    _finish(command(family, strategy, out / "whole"))
    length = time.monotonic() - start
    moments, phases = random.Random(args.seed), Counter[str]()
    killed = out / "killed"
    for _ in range(args.kills):
        alive = _kill_after(
            command(family, strategy, killed, "--resume"), moments.uniform(0, length)
        )
        phases[_phase(killed) if alive else "after its end"] += 1
    _finish(command(family, strategy, killed, "--resume"))
    found = _differences(*(_load(out / name / "model_final.pth") for name in ("whole", "killed")))
    for name in found[:5]:
        print(f"{family}, {strategy}: {name} differs", file=sys.stderr)
    shutil.rmtree(out)
    return args.kills, ", ".join(f"{name} {n}" for name, n in phases.most_common()), len(found)


def _data(folder: Path, kills: int, seed: int) -> tuple[int, str, int]:
    """Makes toy data undisturbed and killed; returns kills, when, and how many files differ."""
    words = [sys.executable, "datasets/prepare_toy.py", "--workers", "1"]
    start = time.monotonic()
    _finish(words, DETECTRON2_DATASETS=str(folder / "whole"))
    length = time.monotonic() - start
    moments = random.Random(seed)
    for _ in range(kills):
        _kill_after(words, moments.uniform(0, length), DETECTRON2_DATASETS=str(folder / "killed"))
    _finish(words, DETECTRON2_DATASETS=str(folder / "killed"))
    whole, killed = (_hashes(folder / name) for name in ("whole", "killed"))
    wrong = {name for name in whole.keys() | killed.keys() if whole.get(name) != killed.get(name)}
    for name in sorted(wrong)[:5]:
        print(f"toy data: {name} differs", file=sys.stderr)
    return kills, f"making {kills}", len(wrong)


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def _finish(words: Sequence[str], **environment: str) -> None:
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _kill_after(words: Sequence[str], seconds: float, **environment: str) -> bool:
    """Starts a command and kills its process group; returns whether it still ran."""
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def _phase(out: Path) -> str:
    """Names what the run did when it died, by the last line of its log."""
    log = out / "log.txt"
    lines = log.read_text().splitlines() if log.is_file() else []
    last = lines[-1] if lines else ""
    return next((name for name, words in PHASES.items() if re.search(words, last)), "start-up")


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Returns the paths at which two checkpoints differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        lost = [f"{path}/{key}" for key in a.keys() ^ b.keys()]
        both = [key for key in a if key in b]
        return lost + [d for key in both for d in _differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return [path]
        return [d for i in range(len(a)) for d in _differences(a[i], b[i], f"{path}/{i}")]
    equal = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if equal else [path]


if __name__ == "__main__":
    sys.exit(main())
