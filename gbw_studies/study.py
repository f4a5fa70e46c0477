#!/usr/bin/env python3
"""Runs a study, a grid of recipes x arms x seeds, which can be interrupted at any time.

    uv run -m gbw_studies.study studies/scale.yaml              # runs what is missing
    uv run -m gbw_studies.study studies/scale.yaml --status     # its progress
    uv run -m gbw_studies.study studies/scale.yaml --arms none gbw --seeds 0 1
    uv run -m gbw_studies.results_table studies/scale.yaml      # tables and pictures

A run is done if results.jsonl in the study's folder has a line with the same package (the training
code of gbw_d2 without comments), the same config and the same seed; results of other studies in the
same folder are reused. After an interruption, finished runs are kept, and unfinished runs resume
from their last checkpoint. Do not edit gbw_d2 meanwhile: run a study in a separate clone. Exit code
1: some runs ended with an error. Diverged runs are marked as failed in the table, and --retry runs
them again; other runs with errors are not done.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gbw_d2.commands import finish
from gbw_d2.errors import UserError
from gbw_d2.files.locking import exclusive
from gbw_studies.grid.halving import arms_of, ranking
from gbw_studies.grid.ledger import (
    FILE,
    Row,
    read_output,
    read_rows,
    replace_row,
    rows_of_others,
    run_name,
    write_rows,
)
from gbw_studies.grid.plan import Job, Study, load_study
from gbw_studies.grid.runs import DIVERGED, last_words, remove_checkpoints, run_all


class Queue:
    """The finished and unfinished runs of a study.

    Args:
        study: the study.
        output: folder of the runs' own files.
        retry: whether failed runs count as not done.
        keep_checkpoints: whether the weights of finished runs stay on disk.
    """

    def __init__(self, study: Study, output: Path, retry: bool, keep_checkpoints: bool) -> None:
        # Imported here, because it takes seconds for which --help should not wait.
        from gbw_d2.config import load_config
        from gbw_d2.engine.setup import resolve
        from gbw_studies.grid.fingerprint import config_hash, package_hash

        self._load, self._resolve, self._config_hash = load_config, resolve, config_hash
        self.study, self.output = study, output
        self.retry, self.keep_checkpoints = retry, keep_checkpoints
        self.package = package_hash()
        self.rows: list[Row] = read_rows(study.folder)
        self.failures = 0  # runs that ended in an error since the start
        self._hashes: dict[Job, str] = {}

    def hash_of(self, job: Job) -> str:
        """Returns the hash of a job's config."""
        if job not in self._hashes:
            cfg = self._load(job.config_file, job.words)
            self._resolve(cfg)
            self._hashes[job] = self._config_hash(cfg)
        return self._hashes[job]

    def row_of(self, job: Job) -> Row | None:
        """Returns a job's row, if it is of this config and of an accepted package."""
        name = (job.recipe, job.arm, job.seed)
        row = next((r for r in self.rows if run_name(r) == name and self._counts(r, job)), None)
        return None if row is not None and self.retry and "error" in row else row

    def _counts(self, row: Row, job: Job) -> bool:
        """Whether a row is of the job's config and seed, and of an accepted package."""
        accepted = {self.package, *self.study.accept_packages}
        same_config = row["config"] == self.hash_of(job) and row["seed"] == job.seed
        return same_config and row["package"] in accepted

    def take_over(self, jobs: Sequence[Job]) -> None:
        """Copies the rows of runs of another study, under this study's names."""
        others = rows_of_others(self.study.folder)
        for job in jobs:
            done = (r for r in others if self._counts(r, job) and "error" not in r)
            row = next((r for r in done if r["threads"] == self.study.threads), None)
            if row is None or self.row_of(job) is not None:
                continue
            self._keep(row | {"recipe": job.recipe, "arm": job.arm})
            print(f"{job.name}: taken over from studies/{row['taken_from']}", flush=True)

    def run(self, jobs: Sequence[Job], workers: int) -> None:
        """Runs the unfinished jobs."""
        waiting = [job for job in jobs if self.row_of(job) is None]
        self._start, self._total, self._done = time.perf_counter(), len(waiting), 0
        folders = [(job, self._folder(job)) for job in waiting]
        run_all(folders, workers, self.study.threads, self._finished)

    def _folder(self, job: Job) -> Path:
        # The name contains the hashes, so that no run resumes one of another config or package.
        return self.output / f"{job.name}-{self.package[:6]}{self.hash_of(job)[:6]}"

    def _finished(self, job: Job, folder: Path, exit_code: int, seconds: float) -> None:
        head = {"recipe": job.recipe, "arm": job.arm, "seed": job.seed, "config": self.hash_of(job)}
        head |= {"package": self.package, "threads": self.study.threads}
        row, said = None, f"failed: {last_words(folder)}"
        if exit_code == 0:
            try:
                row = head | read_output(folder)
                said = _headline(row)
            except (OSError, KeyError, ValueError) as error:
                said = f"failed: its files cannot be read ({error!r})"
        elif exit_code == DIVERGED:
            row = head | {"error": last_words(folder), "scores": {}}
        self.failures += row is None or "error" in row
        if row is not None:
            self._keep(row)
            if "error" not in row and not self.keep_checkpoints:
                remove_checkpoints(folder)
        self._done += 1
        left = (time.perf_counter() - self._start) / self._done * (self._total - self._done)
        print(
            f"[{self._done}/{self._total}] {job.name}: {said}, {seconds:.0f} s; "
            f"{left / 60:.0f} min left",
            flush=True,
        )

    def _keep(self, row: Row) -> None:
        # Read again, because another process may have written results of other runs.
        with exclusive(self.study.folder / FILE):
            self.rows = replace_row(read_rows(self.study.folder), row)
            write_rows(self.study.folder, self.rows)


def _headline(row: Row) -> str:
    first = next(iter(row["scores"].values()))["metrics"]
    leading = next((name for name in first if name.startswith("mIoU_")), None)
    return "done" if leading is None else f"{leading} {first[leading]}"


def selected(study: Study, jobs: Sequence[Job], args: argparse.Namespace) -> list[Job]:
    """Returns the jobs that the command line asks for.

    Raises:
        UserError: an arm or a recipe that the study does not have, or an arm that is recorded only.
    """
    for asked, there in ((args.arms, study.arms), (args.recipes, study.recipes)):
        unknown = [name for name in asked or () if name not in there]
        if unknown:
            raise UserError(f"{study.path} has no {', '.join(unknown)} (has: {', '.join(there)})")
    for arm in args.arms or ():
        if "recorded" in study.arms[arm]:
            raise UserError(
                f"{study.path}: arm '{arm}' was recorded by an earlier version "
                f"({study.arms[arm]['recorded']}) and cannot be run any more; choose another one"
            )
    return [
        job
        for job in jobs
        if (not args.arms or job.arm in args.arms)
        and (not args.recipes or job.recipe in args.recipes)
        and (not args.seeds or job.seed in args.seeds)
    ]


def run_study(study: Study, queue: Queue, args: argparse.Namespace) -> None:
    """Runs the rungs in order; the results of earlier rungs determine the arms of the next."""
    before: list[Row] = []
    for number, rung in enumerate(study.rungs, 1):
        arms = arms_of(study, rung, before)
        jobs = study.jobs(arms, rung.seeds)
        done = sum(queue.row_of(job) is not None for job in jobs)
        print(f"rung {number}: {len(arms)} arms, {done} of {len(jobs)} runs done", flush=True)
        if not args.status:
            queue.take_over(selected(study, jobs, args))
            queue.run(selected(study, jobs, args), args.workers)
        rows = [queue.row_of(job) for job in jobs]
        before += [row for row in rows if row is not None]
        if None in rows and number < len(study.rungs):
            print("the arms of the next rung are not known before all of this one's runs are done")
            return
    for arm, gain in ranking(study, before):
        print(f"{gain:+6.2f}  {arm}")


def default_workers(threads: int) -> int:
    """Returns one run per GPU, or without a GPU as many as there are processors for."""
    import torch

    return torch.cuda.device_count() or max(1, (os.cpu_count() or 1) // threads)


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and runs what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="a file of studies/")
    parser.add_argument(
        "--output", type=Path, help="folder of the runs' files; default: output/studies/<study>"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="runs at a time; default: one per GPU, or without a GPU as the processors allow",
    )
    parser.add_argument("--status", action="store_true", help="only print the progress")
    parser.add_argument("--retry", action="store_true", help="run failed runs again")
    parser.add_argument(
        "--keep-checkpoints", action="store_true", help="keep the weights of finished runs"
    )
    for name in ("arms", "recipes"):
        parser.add_argument(f"--{name}", nargs="+", help=f"only these {name}")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these seeds")
    args = parser.parse_args(arguments)
    if args.workers is not None and args.workers < 1:
        parser.error(f"--workers is {args.workers}; expected 1 or more")
    # Ends the runs, too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def work() -> int:
        study = load_study(args.study)
        args.workers = args.workers or default_workers(study.threads)
        output = args.output or Path("output/studies") / study.name
        queue = Queue(study, output, args.retry, args.keep_checkpoints)
        run_study(study, queue, args)
        return 1 if queue.failures else 0

    return finish(work, "the same command continues with the missing runs")


if __name__ == "__main__":
    sys.exit(main())
