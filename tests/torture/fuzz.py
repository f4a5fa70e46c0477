#!/usr/bin/env python3
"""Damages thousands of files of every kind that is read here, and checks how readers react.

    uv run tests/torture/fuzz.py --count 10000 --seed 0

A trial changes one file and reads it. The file may be refused in one line, or accepted if the
values read from it are valid. Anything else is a fault: a traceback, a message of several lines, an
invalid value, more than ten seconds of processor time, or code that was executed. Trial N of a seed
is always the same file: `--only N` repeats it and shows the result. Exit code 1: there was a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parent / "helpers")]

from gbw_d2 import passive_waiting  # noqa: E402, F401  # isort: skip  (before torch)

import cv2  # noqa: E402
import kinds_data  # noqa: E402
import kinds_runs  # noqa: E402
from kind import Kind, NonsenseError  # noqa: E402
from mutations import CANARY  # noqa: E402

from gbw_d2.errors import UserError  # noqa: E402

SECONDS = 10
MAKERS = (*kinds_data.ALL, *kinds_runs.ALL)
PACKAGES = ("gbw_d2", "gbw_studies")


class TooLongError(BaseException):
    """A reader exceeded its time."""


@dataclass
class Outcome:
    """The result of a trial.

    Attributes:
        verdict: refused, taken (accepted), or a fault in one line.
        kind: of the file.
        file: the changed file.
        error: the exception that was raised.
    """

    verdict: str
    kind: str
    file: str
    error: BaseException | None = None


@dataclass
class Tally:
    """The results of many trials."""

    refused: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)
    faults: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def add(self, number: int, outcome: Outcome) -> None:
        """Counts a trial."""
        if outcome.verdict == "refused":
            self.refused[outcome.kind] += 1
        elif outcome.verdict == "taken":
            self.taken[outcome.kind] += 1
        else:
            self.faults.setdefault((outcome.kind, outcome.verdict), []).append(number)


def make_kinds(folder: Path) -> list[Kind]:
    """Writes undamaged files of every kind."""
    kinds: list[Kind] = []
    for make in MAKERS:
        own = folder / make.__name__
        own.mkdir(parents=True)
        kinds += make(own)
    return kinds


def trial(kinds: Sequence[Kind], seed: int, number: int) -> Outcome:
    """Changes one file, reads it, and restores it."""
    draw = Random(f"{seed}-{number}")
    # The kinds alternate according to their shares, so that even few trials reach all of them.
    slots = [kind for kind in kinds for _ in range(kind.share)]
    kind = slots[(number * 37) % len(slots)]
    path = draw.choice(list(kind.files))
    whole = path.read_bytes()
    changed = draw.choice(list(kind.files[path]))(draw, whole)
    path.write_bytes(changed)
    error: BaseException | None = None
    try:
        with _limited(), contextlib.redirect_stdout(io.StringIO()):
            kind.read()
        verdict = "taken"
    except UserError as caught:
        verdict, error = "refused", caught
        if "\n" in str(caught).strip():
            verdict = f"message of several lines, {_place(caught)}"
    except NonsenseError as caught:
        verdict, error = f"taken, but cannot be: {caught}", caught
    except TooLongError as caught:
        verdict, error = f"not done after {SECONDS} s, {_place(caught)}", caught
    except Exception as caught:
        verdict, error = f"{type(caught).__name__} {_place(caught)}", caught
    if os.path.isdir(CANARY):
        os.rmdir(CANARY)
        verdict = "code was run"
    path.write_bytes(whole)
    return Outcome(verdict, kind.name, path.name, error)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if any(f"/{p}/" in f.filename for p in PACKAGES)]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno} ({last.name})"


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLongError

    # Processor time, because a busy machine is not the reader's fault.
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def in_folder() -> Iterator[Path]:
    """Works in a folder of its own, without output."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)
            logging.disable(logging.NOTSET)


def run(count: int, seed: int, first: int = 0, kind: str = "") -> Tally:
    """Runs the trials ``first`` to ``first + count - 1``, of kinds whose name contains ``kind``."""
    tally = Tally()
    with in_folder() as folder:
        kinds = [k for k in make_kinds(folder / "files") if kind in k.name]
        for number in range(first, first + count):
            tally.add(number, trial(kinds, seed, number))
    return tally


def show(tally: Tally) -> None:
    """Prints a line per kind, and the faults."""
    names = dict.fromkeys([*tally.refused, *tally.taken, *(k for k, _ in tally.faults)])
    faults: Counter[str] = Counter()
    for (name, _), numbers in tally.faults.items():
        faults[name] += len(numbers)
    print(f"{'':46s} {'refused':>8s} {'taken':>8s} {'faults':>8s}")
    for name in names:
        print(f"{name:46s} {tally.refused[name]:8d} {tally.taken[name]:8d} {faults[name]:8d}")
    total = (sum(tally.refused.values()), sum(tally.taken.values()), sum(faults.values()))
    print(f"{'all':46s} {total[0]:8d} {total[1]:8d} {total[2]:8d}")
    for (name, verdict), numbers in sorted(tally.faults.items()):
        print(f"{name}: {verdict}: {len(numbers)}, trials {numbers[:4]}")


def main() -> int:
    """Reads the command line and runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one trial, with its traceback")
    parser.add_argument("--kind", default="", help="only kinds whose name holds this")
    args = parser.parse_args()
    if args.only is not None:
        with in_folder() as folder:
            kinds = [k for k in make_kinds(folder / "files") if args.kind in k.name]
            outcome = trial(kinds, args.seed, args.only)
        if outcome.error is not None:
            traceback.print_exception(outcome.error)
        print(f"{outcome.kind}, {outcome.file}: {outcome.verdict}")
        return 0
    start = time.perf_counter()
    tally = run(args.count, args.seed, kind=args.kind)
    show(tally)
    print(f"{args.count} trials, seed {args.seed}, {time.perf_counter() - start:.0f} s")
    return int(bool(tally.faults))


if __name__ == "__main__":
    sys.exit(main())
