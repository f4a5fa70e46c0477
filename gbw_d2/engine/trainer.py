"""The training loop: draw, losses by the strategy, backward, one step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.engine.distributed import average_gradients
from gbw_d2.engine.finite import FiniteCheck, gradient_norm
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
        self._finite = FiniteCheck()
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._data_seconds = 0.0

    def run_step(self) -> None:
        """Does one iteration.

        Raises:
            FloatingPointError: a loss or the gradient is not finite, with the files' names.
            ValueError: logits or labels that no loss can be computed of, with the files' names.
        """
        start = time.perf_counter()
        source, target = next(self.batches)
        self._data_seconds += time.perf_counter() - start
        files = [str(s.get(keys.FILE_NAME)) for batch in (source, target) for s in batch or ()]

        torch.manual_seed(hash((self.seed, self.iter, comm.get_rank())) % 2**63)
        self.optimizer.zero_grad(set_to_none=True)
        step: dict[str, Tensor] = {}
        totals: list[Tensor] = []
        try:
            for losses in self.strategy.training_losses(source, target, self.iter):
                total = torch.stack(list(losses.values())).sum()
                total.backward()
                totals.append(total.detach())
                for name, value in losses.items():
                    step[name] = step[name] + value.detach() if name in step else value.detach()
        except ValueError as error:
            raise ValueError(f"iteration {self.iter}, {', '.join(files)}: {error}") from error
        average_gradients(self.model.parameters())
        step["total_loss"] = torch.stack(totals).sum()
        step["gradient_norm"] = gradient_norm(self.model.parameters())
        self._finite.add(self.iter, step, files)
        self.optimizer.step()
        self.strategy.after_step(self.iter)
        self._log(step)

    def after_train(self) -> None:
        """Looks at the last steps' values before the hooks close their files."""
        super().after_train()
        self._finite.finish()

    def _log(self, step: Mapping[str, Tensor]) -> None:
        """Adds a step to the means, and writes them out once per period."""
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
        """Returns the iteration; hooks keep no state of their own."""
        return {"iteration": self.iter}
