"""The training loop on hand-made losses, and the hooks beside it."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gbw_d2.engine.hooks import ClassWeights, Evaluation, Log, is_due
from gbw_d2.engine.precision import Precision
from gbw_d2.engine.trainer import Trainer
from gbw_d2.errors import UserError
from gbw_d2.losses import ClassWeightedCrossEntropy
from gbw_d2.uda import ExtraOptimizer, Strategy
from gbw_d2.weighting import LogEntry, WeightLog, build_scheme

from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter, get_event_storage


class TwoPartStrategy(Strategy):
    """Moves a parameter to 3 by two losses, and records the iterations."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, None)
        self.steps: list[int] = []
        self.poison = -1

    def training_losses(self, source: Any, target: Any, iteration: int) -> Iterator[dict]:
        value = self.model.weight.sum()
        yield {"loss_a": (value - 3) ** 2 / 2}
        # The first part's backward has run before the second part is asked for.
        assert self.model.weight.grad is not None
        factor = float("nan") if iteration == self.poison else 1.0
        yield {"loss_b": factor * (self.model.weight.sum() - 3) ** 2 / 2}

    def after_step(self, iteration: int) -> None:
        self.steps.append(iteration)


def make_trainer(period: int = 5) -> tuple[Trainer, TwoPartStrategy]:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    strategy = TwoPartStrategy(model)
    batches = iter(lambda: ([{"file_name": "a.png"}], None), None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    return Trainer(model, strategy, batches, optimizer, period, seed=0), strategy


def test_gradients_of_all_parts_add_up() -> None:
    trainer, strategy = make_trainer()
    trainer.train(0, 1)
    # Each part's gradient at 0 is -3; one step of 0.25 over their sum gives 1.5.
    assert trainer.model.weight.item() == pytest.approx(1.5)
    assert strategy.steps == [0]


class PerImage(Strategy):
    """The mean of one loss per image, by which a step is the same for any number of parts."""

    def training_losses(self, source: Any, target: Any, iteration: int) -> Iterator[dict]:
        values = torch.tensor([sample["value"] for sample in source])
        if iteration == 0:
            self.weight_log.add("first", "source", LogEntry((0,), torch.ones(1), values[:1]))
        # In place of the first, as a loss that is called twice would add it.
        for counts in (values[:1], torch.stack([values.sum(), values.sum() * 2])):
            self.weight_log.add("head", "source", LogEntry((0, 1), torch.ones(2), counts))
        yield {"loss": (self.model.weight.sum() * values).mean()}


def train_in_parts(
    accumulation: int, precision: Precision | None = None, steps: int = 1
) -> Trainer:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    batch = [{"file_name": f"{i}.png", "value": float(v)} for i, v in enumerate((1, 2, 3, 6))]
    batches = iter(lambda: (batch, None), None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(
        *(model, PerImage(model, None), batches, optimizer, 1, 0, accumulation), precision
    )
    trainer.train(0, steps)
    return trainer


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_parts_of_a_batch_add_up_to_its_step(accumulation: int) -> None:
    trainer = train_in_parts(accumulation)
    # The gradient is the mean value, 3.
    assert trainer.model.weight.item() == pytest.approx(1 - 0.1 * 3)
    logged = {k: v[0] for k, v in trainer.storage.latest().items()}
    assert logged["loss"] == logged["total_loss"] == pytest.approx(3)
    assert logged["gradient_norm"] == pytest.approx(3)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_counts_of_all_parts_add_up_in_each_step(accumulation: int) -> None:
    log = train_in_parts(accumulation, steps=2).strategy.weight_log
    assert log.whole_batch().get("head", "source").counts.tolist() == [12, 24]
    # A term of the first step only keeps that step's sum over the parts' first images.
    firsts = {1: 1, 2: 1 + 3, 4: 1 + 2 + 3 + 6}
    assert log.whole_batch().get("first", "source").counts.tolist() == [firsts[accumulation]]


def test_parts_that_do_not_divide_the_batch() -> None:
    with pytest.raises(UserError, match=r"ACCUMULATION is 3, which does not divide the 4 images"):
        train_in_parts(3)


def test_an_overflow_of_float16_skips_the_step_and_lowers_the_scale() -> None:
    precision = Precision("cpu", torch.float16)
    scale = precision.scaler.get_scale()
    trainer = train_in_parts(1, precision)
    assert trainer.model.weight.item() == pytest.approx(1 - 0.1 * 3)

    def losses(source: Any, target: Any, iteration: int) -> Iterator[dict]:
        # The loss is finite; times the scale, its gradient is not.
        yield {"loss": trainer.model.weight.sum() * 1e36}

    trainer.strategy.training_losses = losses
    before = trainer.model.weight.item()
    trainer.train(0, 1)
    assert trainer.model.weight.item() == before
    assert precision.scaler.get_scale() == scale / 2
    other = Precision("cpu", torch.float16)
    other.load_state_dict(precision.state_dict())
    assert other.scaler.get_scale() == scale / 2


def test_half_precision_reaches_the_strategy_and_not_the_loss_sum() -> None:
    model = nn.Linear(4, 4)
    seen: list[torch.dtype] = []

    class Product(Strategy):
        def training_losses(self, source: Any, target: Any, iteration: int) -> Iterator[dict]:
            product = self.model(torch.ones(1, 4))
            seen.append(product.dtype)
            yield {"loss": product.float().sum()}
            seen.append(self.model(torch.ones(1, 4)).dtype)
            yield {"loss": self.model(torch.ones(1, 4)).float().sum()}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = iter(lambda: ([{}], None), None)
    precision = Precision("cpu", torch.bfloat16)
    Trainer(*(model, Product(model, None), batches, optimizer, 1, 0), precision=precision).train(
        0, 1
    )
    assert seen == [torch.bfloat16] * 2
    assert model.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def test_extra_optimisers_follow_their_own_schedule() -> None:
    trainer, _ = make_trainer()
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    extra = ExtraOptimizer(module, optimizer, lambda done: 0.5 ** (4 * done))
    student = trainer.model

    class Both(Strategy):
        def training_losses(self, source: Any, target: Any, iteration: int) -> Iterator[dict]:
            yield {"loss": (student.weight - module.weight).sum()}

    batches = iter(lambda: ([{}], None), None)
    main = torch.optim.SGD(student.parameters(), lr=0.0)
    Trainer(
        student, Both(student, None), batches, main, 1, 0, extra=[extra], schedule_iters=4
    ).train(0, 3)
    # The gradient is -1 in each step: 1 + 1/2 + 1/4.
    assert module.weight.item() == pytest.approx(1.75)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_an_extra_optimiser_waits_for_its_first_gradient(dtype: torch.dtype | None) -> None:
    trainer, _ = make_trainer()
    student, module = trainer.model, nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    optimizer = torch.optim.Adam(module.parameters(), lr=1.0)

    class Late(Strategy):
        def training_losses(self, source: Any, target: Any, iteration: int) -> Iterator[dict]:
            yield {"loss": student.weight.sum()}
            if iteration == 2:  # as after a warm-up
                yield {"loss_late": -module.weight.sum()}

    batches = iter(lambda: ([{}], None), None)
    Trainer(
        *(student, Late(student, None), batches, trainer.optimizer, 1, 0),
        precision=Precision("cpu", dtype),
        extra=[ExtraOptimizer(module, optimizer, lambda done: 1.0)],
    ).train(0, 3)
    assert module.weight.item() == pytest.approx(1.0)
    assert optimizer.state[module.weight]["step"] == 1


def test_log_holds_the_mean_of_each_period() -> None:
    trainer, _ = make_trainer(period=2)
    seen: list[dict] = []

    class Read(HookBase):
        def after_step(self) -> None:
            seen.append({k: v[0] for k, v in get_event_storage().latest().items()})

    trainer.register_hooks([Read()])
    trainer.train(0, 4)
    assert "loss_a" not in seen[0]
    # The error halves in each step: (9 + 9/4) / 2 / 2 for one part, twice that in total.
    assert seen[1]["loss_a"] == pytest.approx(2.8125)
    assert seen[1]["total_loss"] == pytest.approx(5.625)
    assert seen[3]["total_loss"] == pytest.approx(5.625 / 16)


def test_non_finite_loss_stops_and_names_the_files() -> None:
    trainer, strategy = make_trainer()
    strategy.poison = 2
    message = r"iteration 2: loss_b, total_loss, gradient_norm not finite .*a\.png"
    with pytest.raises(FloatingPointError, match=message):
        trainer.train(0, 5)
    # The optimiser has not used the bad gradient.
    assert strategy.steps == [0, 1] and torch.isfinite(trainer.model.weight).all()


def test_non_finite_gradient_stops_even_where_the_loss_is_finite() -> None:
    trainer, strategy = make_trainer()

    def losses(source: Any, target: Any, iteration: int) -> Iterator[dict]:
        # The root's gradient at 0 is infinite.
        yield {"loss_root": (trainer.model.weight.sum() * 0).sqrt()}

    strategy.training_losses = losses
    with pytest.raises(FloatingPointError, match=r"iteration 0: gradient_norm not finite"):
        trainer.train(0, 1)


def test_errors_of_a_loss_name_the_files() -> None:
    trainer, strategy = make_trainer()

    def losses(source: Any, target: Any, iteration: int) -> Iterator[dict]:
        raise ValueError("labels hold 77")
        yield {}

    strategy.training_losses = losses
    with pytest.raises(ValueError, match=r"iteration 0, a\.png: labels hold 77"):
        trainer.train(0, 1)


def test_evaluation_hook_runs_each_period_and_at_the_end() -> None:
    trainer, _ = make_trainer()
    calls: list[int] = []

    def evaluate(done: int) -> dict[str, float]:
        calls.append(done)
        return {"mIoU_16": 1.0}

    trainer.register_hooks([Evaluation(2, evaluate)])
    trainer.train(0, 5)
    assert calls == [2, 4, 5]


def test_losses_are_written_before_a_checkpoint_and_scores_after_an_evaluation() -> None:
    trainer, _ = make_trainer()
    events: list[str] = []

    class Writer(EventWriter):
        def write(self) -> None:
            events.append(f"log {get_event_storage().iter}")

    class Checkpoint(HookBase):
        def after_step(self) -> None:
            events.append(f"checkpoint {self.trainer.iter}")

    def evaluate(done: int) -> dict[str, float]:
        events.append(f"evaluation {done - 1}")
        return {}

    log = Log([Writer()], 1, partial(is_due, period=2, ends=[3]))
    trainer.register_hooks([log.before_checkpoint, Checkpoint(), Evaluation(2, evaluate), log])
    trainer.train(0, 3)
    assert events[:2] == ["log 0", "checkpoint 0"]
    assert events[2:5] == ["checkpoint 1", "evaluation 1", "log 1"]
    assert events[5:8] == ["checkpoint 2", "evaluation 2", "log 2"]


def test_class_weights_file(tmp_path: Path) -> None:
    log, scheme = WeightLog(), build_scheme("gbw_norm", 3)
    criterion = ClassWeightedCrossEntropy(scheme, head="semantic")
    torch.manual_seed(0)
    criterion(torch.randn(1, 3, 8, 8), torch.randint(0, 2, (1, 8, 8)), log=log)
    path = tmp_path / "class_weights.csv"

    def run(first: int, last: int) -> None:
        trainer, _ = make_trainer()
        trainer.register_hooks([ClassWeights({"semantic": scheme}, log, "abc", 2, path)])
        trainer.train(first, last)

    run(0, 5)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["iteration"]) for r in rows] == [2] * 3 + [4] * 3 + [5] * 3
    assert sum(float(r["weight"]) for r in rows[:3]) == pytest.approx(3, abs=1e-4)
    assert [r["class"] for r in rows[:3]] == ["a", "b", "c"]
    assert int(rows[0]["pixels"]) + int(rows[1]["pixels"]) == 64 and rows[2]["pixels"] == "0"
    # A run resumed from iteration 2 writes what came later anew, and no line twice.
    run(2, 5)
    with path.open(newline="") as file:
        assert [int(r["iteration"]) for r in csv.DictReader(file)] == [2] * 3 + [4] * 3 + [5] * 3


@pytest.mark.parametrize(
    ("error", "has_traceback"),
    [(UserError("x"), False), (OSError(28, "full"), False), (ValueError("a bug"), True)],
)
def test_what_people_can_mend_is_no_traceback_in_the_log(
    error: Exception, has_traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    loop = logging.getLogger("detectron2.engine.train_loop")
    try:
        raise error
    except (ValueError, OSError):
        with caplog.at_level(logging.ERROR, loop.name):
            loop.exception("Exception during training:")
    assert bool(caplog.records) == has_traceback
