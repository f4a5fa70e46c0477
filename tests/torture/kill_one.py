"""Trains with two processes, kills one at random moments, and resumes: outside CI.

    uv run tests/torture/kill_one.py --kills 10

There is an undisturbed run with two processes, and one in which one of the processes, drawn with a
fixed seed, is killed (`kill -9`). The kill comes when the log has a certain number of entries,
which is drawn uniformly from 1 to their number in the undisturbed run. The command must then end
within a minute, with exit code 137 and one line that names the killed process, and leave no process
behind. It is resumed each time. When a run is completed, everything in its last checkpoint is
compared with the undisturbed run's, and a new run is started, until there were `--kills` kills.
Exit code 1: anything of this failed. Results: docs/reliability.md.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kills import FAMILIES, Started, command, differences, load, phase

SECONDS = 60
ENTRY = re.compile(r"\[\d\d/\d\d \d\d:\d\d:\d\d ")


@dataclass
class Seen:
    """The outcome of a run.

    Attributes:
        entries: number of entries in its log.
        output: its last lines.
        killed: rank that was killed, None if the run was completed.
        pid: of that process.
        seconds: from the kill to the command's end.
        code: its exit code.
        left: its processes that still existed after the command's end.
    """

    entries: int
    output: list[str]
    killed: int | None = None
    pid: int = 0
    seconds: float = 0.0
    code: int = 0
    left: Sequence[int] = ()

    @property
    def faults(self) -> list[str]:
        """The requirements after a kill that were not met."""
        assert self.killed is not None
        line = (
            f"error: process {self.killed + 1} of 2 (process id {self.pid}) was killed by SIGKILL"
        )
        reports = [text for text in self.output if text.startswith(line)]
        found = [] if len(reports) == 1 else [f"reported {len(reports)} times"]
        found += [f"exit code {self.code}"] if self.code != 128 + signal.SIGKILL else []
        found += [f"{self.seconds:.0f} s"] if self.seconds > SECONDS else []
        found += ["a traceback"] if any("Traceback" in text for text in self.output) else []
        return found + [f"{len(self.left)} processes left"] * bool(self.left)


def run(words: Sequence[str], entry: int | None, rank: int, delay: float) -> Seen:
    """Runs a command with two processes and kills one of them.

    Args:
        words: the command.
        entry: number of the log's entry at which it is killed; None for never.
        rank: of the process to kill.
        delay: seconds between that entry and the kill.
    """
    process = Started(words, is_forked=False)
    seen, children, killed_at = Seen(0, []), list[int](), 0.0
    for line in process.output:
        seen.output = [*seen.output[-40:], line]
        seen.entries += bool(ENTRY.search(line))
        if entry is not None and seen.killed is None and seen.entries >= entry:
            time.sleep(delay)
            children = processes_of(process.pid)
            if process.is_running() and len(children) == 2:
                seen.killed, seen.pid = rank, children[rank]
                os.kill(seen.pid, signal.SIGKILL)
                killed_at = time.monotonic()
            entry = None
    # Loaders keep the output of a killed process open for some seconds, which count, too.
    seen.code = process.wait()
    if seen.killed is not None:
        seen.seconds = time.monotonic() - killed_at
        seen.left = [pid for pid in children if Path(f"/proc/{pid}").exists()]
    elif seen.code:
        raise SystemExit(f"{' '.join(words)}\n{''.join(seen.output)}")
    return seen


def processes_of(launcher: int) -> list[int]:
    """Returns the ids of the training processes by rank: spawned children, sorted by id."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    spawned = [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    return sorted(map(int, spawned))


def main() -> int:
    """Reads the command line, trains, kills, resumes and compares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of moments and ranks; default: 0")
    parser.add_argument("--family", choices=FAMILIES, default="panoptic_deeplab")
    parser.add_argument("--strategy", default="self_training")
    args = parser.parse_args()
    draw, phases, ranks = random.Random(args.seed), Counter[str](), Counter[int]()
    faults, slowest, ends = list[str](), 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / name for name in ("whole", "killed")]
        words = [
            command(args.family, args.strategy, outs[0], processes=2, steps=6),
            command(args.family, args.strategy, outs[1], "--resume", processes=2, steps=6),
        ]
        entries = run(words[0], None, 0, 0.0).entries
        while True:
            enough = ranks.total() >= args.kills
            entry = None if enough else draw.randint(1, entries)
            seen = run(words[1], entry, draw.randrange(2), draw.uniform(0, 0.3))
            if seen.killed is not None:
                ranks[seen.killed] += 1
                phases[phase(seen.output)] += 1
                faults += seen.faults
                slowest = max(slowest, seen.seconds)
                print(f"{seen.seconds:.1f} s, {seen.output[-1].strip()}", file=sys.stderr)
                continue
            ends += 1
            both = [load(out / "model_final.pth") for out in outs]
            faults += [f"{name} differs" for name in differences(*both)[:5]]
            if enough:
                break
            shutil.rmtree(outs[1])
    when = ", ".join(f"{name} {number}" for name, number in phases.most_common())
    print(
        f"{args.family}, {args.strategy}: {ranks.total()} kills ({when}; first process {ranks[0]}, "
        f"second {ranks[1]}), {ends} ends, slowest {slowest:.0f} s, {len(faults)} faults"
    )
    for fault in faults:
        print(fault)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
