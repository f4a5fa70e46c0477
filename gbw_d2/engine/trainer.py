"""The training loop: draws batches, computes the strategy's losses, and steps the optimisers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.engine.distributed import average_gradients, lost_contact
from gbw_d2.engine.finite import FiniteCheck, Flags, gradient_norm
from gbw_d2.engine.precision import Precision
from gbw_d2.errors import UserError
from gbw_d2.uda.stages import Batch
from gbw_d2.uda.strategy import ExtraOptimizer, Strategy

from detectron2.engine import TrainerBase
from detectron2.utils import comm


def _is_ours_to_mend(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, UserError | OSError) or lost_contact(error))


# Detectron2's loop logs a traceback of every error; errors that users can correct, and that another
# process was killed, are reported in one line.
logging.getLogger("detectron2.engine.train_loop").addFilter(_is_ours_to_mend)


class Trainer(TrainerBase):
    """Runs the backward pass of each of a strategy's losses, then steps the optimisers once.

    Losses stay on the device; they are averaged over ``log_period`` iterations and copied to the
    host once per period, so that a step does not wait for the device.

    Args:
        model: the student.
        strategy: yields the losses.
        batches: yields (source batch, target batch or None).
        optimizer: the optimiser of the student's parameters.
        log_period: iterations between two entries of the log.
        seed: seeds the network's random numbers (dropout) together with the iteration, so that a
            resumed run equals an uninterrupted one.
        accumulation: parts into which a batch is split; their gradients are averaged, so that a
            step equals that of as many processes with one part each, except for what a part
            computes by itself (docs/training.md).
        precision: float32 or a half precision.
        extra: the strategy's own optimisers.
        schedule_iters: length of their learning-rate schedules, iterations.
        flags: returns the flags that the weighted losses have set on their device.
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy,
        batches: Iterator[tuple[Batch, Batch | None]],
        optimizer: torch.optim.Optimizer,
        log_period: int,
        seed: int,
        accumulation: int = 1,
        precision: Precision | None = None,
        extra: Sequence[ExtraOptimizer] = (),
        schedule_iters: int = 1,
        flags: Callable[[], Flags] = dict,
    ) -> None:
        super().__init__()
        model.train()
        self.model = model
        self.strategy = strategy
        self.batches = batches
        self.optimizer = optimizer
        self.log_period = log_period
        self.seed = seed
        self.accumulation = accumulation
        self.precision = precision or Precision("cpu")
        self.extra = extra
        self.schedule_iters = schedule_iters
        self.flags = flags
        for each in extra:
            for group in each.optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
        self._finite = FiniteCheck()
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._data_seconds = 0.0

    def run_step(self) -> None:
        """Runs one iteration.

        Raises:
            FloatingPointError: a loss or the gradient is not finite; the message names the files.
            ValueError: invalid logits or labels; the message names the files.
        """
        start = time.perf_counter()
        source, target = next(self.batches)
        self._data_seconds += time.perf_counter() - start
        files = [str(s.get(keys.FILE_NAME)) for batch in (source, target) for s in batch or ()]

        self._zero_gradients()
        step: dict[str, Tensor] = {}
        try:
            for part in range(self.accumulation):
                self._seed_part(part)
                self.strategy.weight_log.begin_part(part)
                self._backward(self._share(source, part), self._share(target, part), step)
        except UserError:
            raise
        except ValueError as error:
            raise ValueError(f"iteration {self.iter}, {', '.join(files)}: {error}") from error
        step["total_loss"] = torch.stack(list(step.values())).sum()
        norm = self._reduced_gradient_norm()
        # The loss scaler skips a step whose gradient overflowed; without a scaler this is an error.
        must_be_finite = step if self.precision.may_overflow else {**step, "gradient_norm": norm}
        self._finite.add(self.iter, must_be_finite, files, self.flags())
        step["gradient_norm"] = norm
        self._step_optimizers()
        self.strategy.after_step(self.iter)
        self._log(step)

    def after_train(self) -> None:
        """Checks the last steps' values before the hooks close their files."""
        super().after_train()
        self._finite.finish()

    def _seed_part(self, part: int) -> None:
        # Part 2 of one process has the same number as the first part of process 2.
        number = comm.get_rank() * self.accumulation + part
        torch.manual_seed(hash((self.seed, self.iter, number)) % 2**63)

    def _share(self, batch: Batch | None, part: int) -> Any:
        if batch is None or self.accumulation == 1:
            return batch
        if len(batch) % self.accumulation:
            raise UserError(
                f"SOLVER.GRADIENT_ACCUMULATION is {self.accumulation}, which does not divide the "
                f"{len(batch)} images that each process has of a batch; change it or "
                "SOLVER.IMS_PER_BATCH"
            )
        share = len(batch) // self.accumulation
        return batch[part * share : (part + 1) * share]

    def _backward(self, source: Batch, target: Batch | None, step: dict[str, Tensor]) -> None:
        """Accumulates the gradients of one part of the batch, and its losses."""
        yielded = self.strategy.training_losses(source, target, self.iter)
        while True:
            # The strategy's forward passes run inside next(); backward belongs outside autocast.
            with self.precision.autocast():
                losses = next(yielded, None)
            if losses is None:
                return
            total = torch.stack(list(losses.values())).sum() / self.accumulation
            self.precision.scaler.scale(total).backward()
            for name, value in losses.items():
                mean = value.detach() / self.accumulation
                step[name] = step[name] + mean if name in step else mean
            # Their graph must be freed before the next forward pass begins.
            del losses, total, value

    def _zero_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for each in self.extra:
            each.optimizer.zero_grad(set_to_none=True)

    def _reduced_gradient_norm(self) -> Tensor:
        """Averages all gradients over the processes, and returns the norm of the student's."""
        average_gradients(self.model.parameters())
        for each in self._trained_extra():
            average_gradients(each.module.parameters())
        if self.precision.may_overflow:
            for optimizer in (self.optimizer, *(e.optimizer for e in self._trained_extra())):
                self.precision.scaler.unscale_(optimizer)
        return gradient_norm(self.model.parameters())

    def _trained_extra(self) -> list[ExtraOptimizer]:
        """Returns the strategy's optimisers whose modules have gradients, alike in all processes.

        During the warm-up there are none: a step with gradients of 0 would count in Adam's bias
        correction, and a loss scaler refuses a step without any gradient.
        """
        return [e for e in self.extra if any(p.grad is not None for p in e.module.parameters())]

    def _step_optimizers(self) -> None:
        scaler = self.precision.scaler
        scaler.step(self.optimizer)
        for each in self._trained_extra():
            for group in each.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * each.lr_factor(self.iter / self.schedule_iters)
            scaler.step(each.optimizer)
        scaler.update()

    def _log(self, step: Mapping[str, Tensor]) -> None:
        """Adds a step's losses to the means, which are written once per period."""
        for name, value in step.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1
        if (self.iter + 1) % self.log_period and self.iter + 1 != self.max_iter:
            return
        names = list(self._sums)
        means = (torch.stack([self._sums[n] for n in names]) / self._steps).tolist()
        mine = dict(zip(names, means, strict=True))
        gathered = comm.gather((mine, self._data_seconds / self._steps))
        if comm.is_main_process():
            averaged = {n: sum(m[n] for m, _ in gathered) / len(gathered) for n in names}
            self.storage.put_scalars(**averaged)
            self.storage.put_scalar("data_time", max(seconds for _, seconds in gathered))
        self._sums, self._steps, self._data_seconds = {}, 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Returns the iteration; hooks have no state."""
        return {"iteration": self.iter}
