"""Hooks of the training loop: checkpoints, evaluation, and the record of class weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.engine.checkpoint import Checkpointer
from gbw_d2.results.class_weights import ClassWeightsFile
from gbw_d2.weighting import LogEntry, WeightingScheme, WeightLog

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm


def periodic_checkpointer(
    checkpointer: Checkpointer, period: int, kept: int, ends: Sequence[int]
) -> HookBase:
    """Returns a hook that writes a checkpoint every ``period`` iterations and one at the end.

    Args:
        checkpointer: writes the checkpoints.
        period: iterations.
        kept: number of newest checkpoints to keep, including those before a resumption; 0 for all.
            The last checkpoint of the run and of each of its stages, and the best one by
            EVAL.BEST_ON, are always kept.
        ends: iteration after the last one of each stage, in order; the last is SOLVER.MAX_ITER.
    """
    hook = _Checkpoints(checkpointer, period, max_to_keep=kept or None)
    hook.iterations = ends[-1]
    hook.stays = {f"model_{end - 1:07d}.pth" for end in ends[:-1]}
    there = Path(checkpointer.save_dir).glob(f"model_{'[0-9]' * 7}.pth")
    hook.recent_checkpoints = sorted(str(path) for path in there if path.name not in hook.stays)
    return hook


class _Checkpoints(hooks.PeriodicCheckpointer):
    """Detectron2's hook, which would call the last checkpoint of every stage ``model_final``."""

    iterations: int
    # Names of the files at the ends of stages.
    stays: set[str]

    def before_train(self) -> None:
        super().before_train()
        self.stage_end = self.trainer.max_iter
        if self.stage_end < self.iterations:
            self.max_iter = None

    def step(self, iteration: int, **kwargs: Any) -> None:
        super().step(iteration, **kwargs)
        done = iteration + 1
        if self.max_iter is not None or done != self.stage_end:
            return
        if done % self.period:
            self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration, **kwargs)
        recent = self.recent_checkpoints
        self.recent_checkpoints = [path for path in recent if Path(path).name not in self.stays]


def is_due(done: int, period: int, ends: Sequence[int]) -> bool:
    """Tells whether the network is evaluated after a number of iterations.

    Args:
        done: iterations done.
        period: iterations between two evaluations; 0 for the ends of stages only.
        ends: iterations after which a stage ends.
    """
    return done in ends or (period > 0 and done % period == 0)


class Log(hooks.PeriodicWriter):
    """Detectron2's hook, which writes the log after an evaluation if one is due.

    Otherwise :attr:`before_checkpoint` writes it, so that a run that is killed after its checkpoint
    was written, and resumed from it, has no gap in its log.

    Args:
        writers: of metrics.
        period: iterations between two entries.
        due: tells whether an evaluation is due after a number of iterations.
    """

    def __init__(self, writers: list[Any], period: int, due: Callable[[int], bool]) -> None:
        super().__init__(writers, period)
        self.due = due
        self.before_checkpoint = _LogBeforeCheckpoint(self)

    def after_step(self) -> None:
        """Writes if the network has been evaluated."""
        if self.due(self.trainer.iter + 1):
            super().after_step()


class _LogBeforeCheckpoint(HookBase):
    def __init__(self, log: Log) -> None:
        self.log = log

    def after_step(self) -> None:
        if not self.log.due(self.trainer.iter + 1):
            hooks.PeriodicWriter.after_step(self.log)


class Evaluation(HookBase):
    """A hook that evaluates every ``period`` iterations and after the last one.

    Args:
        period: iterations; 0 for the end only.
        evaluate: takes the number of iterations done and returns flat metrics.
    """

    def __init__(self, period: int, evaluate: Callable[[int], Mapping[str, float]]) -> None:
        self.period = period
        self.evaluate = evaluate

    def after_step(self) -> None:
        """Evaluates in every ``period``-th iteration and logs the metrics."""
        done = self.trainer.iter + 1
        if is_due(done, self.period, [self.trainer.max_iter]):
            metrics = self.evaluate(done)
            self.trainer.storage.put_scalars(**metrics, smoothing_hint=False)
            # The other processes wait here, because their next step could time out during the first
            # one's evaluation.
            comm.synchronize()


class ClassWeights(HookBase):
    """A hook that writes each head's class weights to class_weights.csv and their range to the log.

    Args:
        schemes: weighting schemes by name of the weighted head.
        log: the class weights that the losses used.
        class_names: name of each class id.
        period: iterations between two entries.
        path: the CSV file, which a resumed run continues.
    """

    def __init__(
        self,
        schemes: Mapping[str, WeightingScheme],
        log: WeightLog,
        class_names: Sequence[str],
        period: int,
        path: Path,
    ) -> None:
        self.schemes = schemes
        self.log = log
        self.class_names = class_names
        self.period = period
        self.file = ClassWeightsFile(path)

    def before_train(self) -> None:
        """Starts the file, or removes rows that a resumed run will write again."""
        if not comm.is_main_process():
            return
        self.file.start(self.trainer.start_iter)

    def after_step(self) -> None:
        """Writes one row per head, term and class in every ``period``-th iteration."""
        done = self.trainer.iter + 1
        if done % self.period and done != self.trainer.max_iter:
            return
        log = self.log.whole_batch()
        if not comm.is_main_process():
            return
        rows = []
        for head, term, entry in log:
            if head in self.schemes:
                rows += self._rows(done, head, term, entry)
        self._put_counters()
        self.file.append(rows)

    def _put_counters(self) -> None:
        counters = {
            f"weights/{head}_{name}": float(value)
            for head, scheme in self.schemes.items()
            for name, value in scheme.counters().items()
        }
        self.trainer.storage.put_scalars(**counters, smoothing_hint=False)

    def _rows(self, done: int, head: str, term: str, entry: LogEntry) -> list[list[Any]]:
        names = [self.class_names[i] for i in entry.class_ids]
        weights = entry.weights.float()
        unknown = torch.full_like(weights, torch.nan)
        measure = unknown if entry.measure is None else entry.measure
        share = weights / weights.sum()
        spread = torch.stack(
            [weights.min(), weights.max(), -(share * share.clamp_min(1e-12).log()).sum()]
        )
        # One copy to the host per head and term.
        table = torch.stack([weights, measure.float(), entry.counts.float()]).cpu()
        low, high, entropy = spread.tolist()
        prefix = f"weights/{head}_{term}"
        self.trainer.storage.put_scalars(
            **{f"{prefix}_min": low, f"{prefix}_max": high, f"{prefix}_entropy": entropy}
        )
        rows: list[list[Any]] = [
            [done, head, term, name, f"{w:.6g}", f"{m:.6g}", int(n)]
            for name, w, m, n in zip(names, *table.tolist(), strict=True)
        ]
        self._put_classes(rows)
        return rows

    def _put_classes(self, rows: Sequence[Sequence[Any]]) -> None:
        """Writes weight, measure and pixels of each class to TensorBoard and metrics.json."""
        scalars: dict[str, float] = {}
        for _, head, term, name, weight, measure, pixels in rows:
            place = f"{head}_{term}/{name.replace(' ', '_')}"
            scalars |= {f"class_weights/{place}": float(weight), f"class_pixels/{place}": pixels}
            # Schemes without a measure have NaN there, which JSON cannot hold.
            if math.isfinite(float(measure)):
                scalars[f"class_measure/{place}"] = float(measure)
        self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)
