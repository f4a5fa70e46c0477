"""The training loop: draw, losses by the strategy, backward, one step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.engine.distributed import average_gradients
from gbw_d2.uda.strategy import Batch, Strategy

from detectron2.engine import TrainerBase
from detectron2.utils import comm


class Trainer(TrainerBase):
    """Runs a strategy's losses backward one after the other, then steps the optimiser once.

    Losses stay on the device; they are averaged over ``log_period`` iterations and copied to the
    host once per period, so that a step does not wait for the device.

    Args:
        model: the student.
        strategy: yields the losses.
        batches: yields (source batch, target batch or None).
        optimizer: over the student's parameters.
        log_period: iterations between two entries of the log.
        seed: keys the network's own random draws (dropout) together with the iteration, so that a
            resumed run draws what an uninterrupted one does.
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy,
        batches: Iterator[tuple[Batch, Batch | None]],
        optimizer: torch.optim.Optimizer,
        log_period: int,
        seed: int,
    ) -> None:
        super().__init__()
        model.train()
        self.model = model
        self.strategy = strategy
        self.batches = batches
        self.optimizer = optimizer
        self.log_period = log_period
        self.seed = seed
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._data_seconds = 0.0

    def run_step(self) -> None:
        """Does one iteration.

        Raises:
            FloatingPointError: a loss is not finite; the message names it and the files.
        """
        start = time.perf_counter()
        source, target = next(self.batches)
        self._data_seconds += time.perf_counter() - start

        torch.manual_seed(hash((self.seed, self.iter, comm.get_rank())) % 2**63)
        self.optimizer.zero_grad(set_to_none=True)
        for losses in self.strategy.training_losses(source, target, self.iter):
            total = torch.stack(list(losses.values())).sum()
            # Reading a value is free on the CPU only; on a GPU the log period finds it.
            if total.device.type == "cpu" and not torch.isfinite(total):
                self._stop_non_finite(
                    {k: float(v.detach()) for k, v in losses.items()}, [source, target]
                )
            total.backward()
            self._collect(losses | {"total_loss": total})
        average_gradients(self.model.parameters())
        self.optimizer.step()
        self.strategy.after_step(self.iter)
        if (self.iter + 1) % self.log_period == 0 or self.iter + 1 == self.max_iter:
            self._log([source, target])

    def _collect(self, losses: Mapping[str, Tensor]) -> None:
        for name, value in losses.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts.update({name: self._counts.get(name, 0) + 1 for name in losses})

    def _log(self, batches: list[Batch | None]) -> None:
        names = list(self._sums)
        # total_loss is yielded in parts; its mean is per iteration, like that of each loss.
        steps = max(v for k, v in self._counts.items() if k != "total_loss")
        means = (torch.stack([self._sums[n] for n in names]) / steps).tolist()
        gathered = comm.gather((dict(zip(names, means, strict=True)), self._data_seconds / steps))
        bad = {n: v for n, v in zip(names, means, strict=True) if v != v or abs(v) == float("inf")}
        if bad:
            self._stop_non_finite(bad, batches)
        if comm.is_main_process():
            averaged = {n: sum(m[n] for m, _ in gathered) / len(gathered) for n in names}
            self.storage.put_scalars(**averaged)
            self.storage.put_scalar("data_time", max(seconds for _, seconds in gathered))
        self._sums, self._counts, self._data_seconds = {}, {}, 0.0

    def _stop_non_finite(self, losses: Mapping[str, float], batches: list[Batch | None]) -> None:
        files = [str(s.get(keys.FILE_NAME)) for batch in batches if batch for s in batch]
        raise FloatingPointError(
            f"iteration {self.iter}: losses {dict(losses)} are not finite. Latest files: "
            f"{', '.join(files)}. Lower SOLVER.BASE_LR or look at these images and labels"
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns the iteration; hooks keep no state of their own."""
        return {"iteration": self.iter}
