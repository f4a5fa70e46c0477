"""Trains with two processes, kills one at random moments, and resumes: outside CI.

    uv run tests/torture/kill_one.py --kills 10

An undisturbed run with two processes, then one of which either process, drawn with a fixed seed, is
killed (`kill -9`) when the log has a number of entries that is drawn evenly from 1 to the
undisturbed run's. The command must then end within a minute with exit code 137 and one line that
names the dead process, and leave no process behind; it is resumed each time. A run that came to its
end is compared, all that its last checkpoint holds, and started anew until there were `--kills`.
Exit code 1 where anything is otherwise. What it came to: docs/reliability.md.
"""

from __future__ import annotations

import argparse
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

from kills import FAMILIES, ROOT, command, differences, load, phase

SECONDS = 60
ENTRY = re.compile(r"\[\d\d/\d\d \d\d:\d\d:\d\d ")


@dataclass
class Seen:
    """What came of a run.

    Attributes:
        entries: of its log.
        output: its last lines.
        killed: rank that was killed, None where the run came to its end.
        pid: of that process.
        seconds: from the kill to the command's end.
        code: its exit code.
        left: processes of it that were still there.
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
        """What is otherwise than it should be after a kill."""
        assert self.killed is not None
        line = (
            f"error: process {self.killed + 1} of 2 (process id {self.pid}) was killed by SIGKILL"
        )
        told = [text for text in self.output if text.startswith(line)]
        found = [] if len(told) == 1 else [f"told {len(told)} times"]
        found += [f"exit code {self.code}"] if self.code != 128 + signal.SIGKILL else []
        found += [f"{self.seconds:.0f} s"] if self.seconds > SECONDS else []
        found += ["a traceback"] if any("Traceback" in text for text in self.output) else []
        return found + [f"{len(self.left)} processes left"] * bool(self.left)


def run(words: Sequence[str], entry: int | None, rank: int, delay: float) -> Seen:
    """Runs a command with two processes and kills one of them.

    Args:
        words: the command.
        entry: the log's entry at which it is killed; None for never.
        rank: which process.
        delay: seconds between that entry and the kill.
    """
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    seen, children, killed_at = Seen(0, []), list[int](), 0.0
    for line in process.stdout:
        seen.output = [*seen.output[-40:], line]
        seen.entries += bool(ENTRY.search(line))
        if entry is not None and seen.killed is None and seen.entries >= entry:
            time.sleep(delay)
            children = processes_of(process.pid)
            if process.poll() is None and len(children) == 2:
                seen.killed, seen.pid = rank, children[rank]
                os.kill(seen.pid, signal.SIGKILL)
                killed_at = time.monotonic()
            entry = None
    # Loaders that lost their process hold its output open for some seconds, which count too.
    seen.code = process.wait()
    if seen.killed is not None:
        seen.seconds = time.monotonic() - killed_at
        seen.left = [pid for pid in children if Path(f"/proc/{pid}").exists()]
    elif seen.code:
        raise SystemExit(f"{' '.join(words)}\n{''.join(seen.output)}")
    return seen


def processes_of(launcher: int) -> list[int]:
    """Returns the processes that train, by rank: the spawned children in the order of their ids."""
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
            command(args.family, args.strategy, outs[0], processes=2),
            command(args.family, args.strategy, outs[1], "--resume", processes=2),
        ]
        entries = run(words[0], None, 0, 0.0).entries
        while True:
            enough = ranks.total() >= args.kills
            entry = None if enough else draw.randint(1, entries)
            seen = run(words[1], entry, draw.randrange(2), draw.uniform(0, 0.3))
            if seen.killed is not None:
                ranks[seen.killed] += 1
                phases[phase(next(t for t in reversed(seen.output) if ENTRY.search(t)))] += 1
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
