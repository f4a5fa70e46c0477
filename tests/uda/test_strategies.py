"""Contract of every registered strategy on every architecture."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from strategies import FOR_ALL

from gbw_d2 import keys
from gbw_d2.engine.build import build_model
from gbw_d2.engine.trainer import Trainer
from gbw_d2.errors import UserError
from gbw_d2.losses import entropy_loss
from gbw_d2.modeling.targets.centers import (
    CENTER,
    CENTER_WEIGHTS,
    INSTANCE_CLASS,
    OFFSET,
    OFFSET_WEIGHTS,
)
from gbw_d2.uda import Context, build_strategy
from gbw_d2.uda.stages import PSEUDO_LABELS

ARCHITECTURES = ("panoptic", "semantic", "auxiliary")
LABELS = {
    *(keys.SEM_SEG, CENTER, CENTER_WEIGHTS, OFFSET, OFFSET_WEIGHTS),
    INSTANCE_CLASS,
}


class TargetSample(dict):
    """A target sample that explodes where somebody looks for its labels."""

    def __getitem__(self, key: str) -> Any:
        assert key not in LABELS, f"a strategy read the target's {key}"
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        assert key not in LABELS, f"a strategy looked for the target's {key}"
        return super().__contains__(key)


def target_sample(sample: dict[str, Any]) -> TargetSample:
    """Adds what a strategy may have written itself, apart from the labels that it must not read."""
    return TargetSample({**sample, PSEUDO_LABELS: {keys.SEM_SEG: sample[keys.SEM_SEG].flip(1)}})


@pytest.fixture(params=ARCHITECTURES)
def model_and_config(request: Any, tiny_config: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    more = ("MODEL.AUXILIARY_HEAD.ENABLED", True, "MODEL.AUXILIARY_HEAD.CHANNELS", 32)
    overrides = more if request.param == "auxiliary" else ()
    name = "panoptic" if request.param == "auxiliary" else request.param
    cfg = tiny_config(*overrides, name=f"toy/{name}_gbw")
    return build_model(cfg).train(), cfg


def build(name: str, model: Any, cfg: Any, folder: Any) -> Any:
    torch.manual_seed(1)
    # Four iterations are too few for a warm-up and three rounds.
    cfg.UDA.CBST.WARM_UP, cfg.UDA.CBST.ROUNDS = 0.0, 2
    strategy = build_strategy(name, model, cfg.UDA, seed=0, max_iter=4)
    for stage in strategy.stages():
        strategy.prepare(stage, Context(fresh=True, folder=folder))
        break
    return strategy


def run(strategy: Any, samples: Any, first: int, last: int) -> Trainer:
    """Trains the strategy's student on random samples of its own for each iteration."""

    def batches() -> Iterator[tuple[Any, Any]]:
        for iteration in range(first, last):
            target = [target_sample(sample) for sample in samples(seed=100 + iteration)]
            yield samples(seed=iteration), target if strategy.needs_target else None

    optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.01)
    extra = list(strategy.optimizers().values())
    trainer = Trainer(
        strategy.model, strategy, batches(), optimizer, 100, seed=0, extra=extra, schedule_iters=4
    )
    trainer.train(first, last)
    return trainer


def weights_of(strategy: Any) -> dict[str, torch.Tensor]:
    modules = {"student": strategy.model, **strategy.modules()}
    return {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different, different


@pytest.mark.parametrize("name", FOR_ALL)
def test_contract(name: str, model_and_config: Any, samples: Any, tmp_path: Any) -> None:
    model, cfg = model_and_config
    twin = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    strategy = build(name, model, cfg, tmp_path)
    bounds = [bound for stage in strategy.stages() for bound in (stage.first, stage.last)]
    assert bounds == sorted(bounds) and bounds[0] == 0 and bounds[-1] == 4
    assert strategy.networks()["student"] is model
    run(strategy, samples, 0, 2)  # finite, or the trainer raises
    after = weights_of(strategy)
    assert any(not torch.equal(before[key], after[f"student.{key}"]) for key in before)

    # Deterministic, and nothing that matters is left out of the checkpoint: a strategy that is made
    # anew after two steps and given the state goes on as the first one does.
    again = build(name, twin, cfg, tmp_path)
    run(again, samples, 0, 2)
    assert_equal(weights_of(again), after)
    restored = build(name, copy.deepcopy(twin), cfg, tmp_path)
    for key, module in again.modules().items():
        restored.modules()[key].load_state_dict(module.state_dict())
    for key, extra in again.optimizers().items():
        state = copy.deepcopy(extra.optimizer.state_dict())
        restored.optimizers()[key].optimizer.load_state_dict(state)
    run(again, samples, 2, 4)
    run(restored, samples, 2, 4)
    assert_equal(weights_of(restored), weights_of(again))


@pytest.mark.parametrize("name", FOR_ALL)
def test_frozen_modules_get_no_gradient(
    name: str, model_and_config: Any, samples: Any, tmp_path: Any
) -> None:
    model, cfg = model_and_config
    strategy = build(name, model, cfg, tmp_path)
    trained = {id(extra.module) for extra in strategy.optimizers().values()}
    run(strategy, samples, 0, 1)
    for key, module in strategy.modules().items():
        moved = [p for p in module.parameters() if p.grad is not None]
        assert bool(moved) == (id(module) in trained), key


@pytest.mark.parametrize("name", sorted(set(FOR_ALL) - {"cbst", "source_only"}))
def test_warm_up_is_source_training_alone(name: str, model_and_config: Any, samples: Any) -> None:
    model, cfg = model_and_config
    cfg.UDA.WARM_UP = 0.5
    strategy = build_strategy(name, model, cfg.UDA, seed=0, max_iter=4)
    parts = [len(list(strategy.training_losses(samples(), samples(seed=1), i))) for i in range(4)]
    assert parts[:2] == [1, 1] and min(parts[2:]) >= 2


def test_cbst_says_that_its_warm_up_is_another_key(
    model_and_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, cfg = model_and_config
    cfg.UDA.WARM_UP = 0.5
    with caplog.at_level("INFO", logger="gbw_d2"):
        strategy = build_strategy("cbst", model, cfg.UDA, seed=0, max_iter=8)
        build_strategy("self_training", model, cfg.UDA, seed=0, max_iter=8)
    assert [record.getMessage() for record in caplog.records] == [
        "UDA.WARM_UP 0.5 changes nothing under UDA.NAME 'cbst', whose own key is UDA.CBST.WARM_UP"
    ]
    assert all(mark.startswith("stage ") for mark in strategy.marks())


def test_source_only_is_supervised(model_and_config: Any, samples: Any) -> None:
    model, cfg = model_and_config
    batch = samples()
    (losses,) = build_strategy("source_only", model, cfg.UDA).training_losses(batch, None, 0)
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        {k: v.item() for k, v in model(batch).items()}
    )


def test_min_entropy_adds_the_target_entropy(model_and_config: Any, samples: Any) -> None:
    model, cfg = model_and_config
    cfg.UDA.MIN_ENTROPY.LOSS_WEIGHT, cfg.UDA.MIN_ENTROPY.AUXILIARY_LOSS_WEIGHT = 0.5, 0.25
    target = samples(seed=1)
    strategy = build_strategy("min_entropy", model, cfg.UDA)
    _, losses = strategy.training_losses(samples(), target, 0)
    images = model.images(target)
    outputs = model.outputs(model.features(images), (32, 64))
    expected = {
        f"loss_entropy_{name}": weight * entropy_loss(prediction.dense()).item()
        for name, weight, prediction in (
            ("semantic", 0.5, outputs.semantic),
            ("auxiliary", 0.25, outputs.auxiliary),
        )
        if prediction is not None
    }
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("cbst", "thresholds that each round finds per class"),
        ("cvrn", "thresholds that labelling finds per class"),
        ("mask_teacher", "UDA.MASK_TEACHER.THRESHOLDS"),
    ],
)
def test_thresholds_of_others_are_refused(tiny_config: Any, name: str, own: str) -> None:
    words = ("UDA.NAME", name, "UDA.SELF_TRAINING.THRESHOLDS", "adaptive")
    with pytest.raises(
        UserError, match=rf"THRESHOLDS is 'adaptive', but UDA.NAME '{name}' .*{own}"
    ):
        tiny_config(*words)


@pytest.mark.parametrize("name", ["adversarial", "max_squares", "min_entropy"])
def test_one_class_has_no_probabilities_to_compare(tiny_config: Any, name: str) -> None:
    one = SimpleNamespace(label_space=SimpleNamespace(class_names=("boat",)))
    with pytest.raises(UserError, match=rf"'{name}' compares .* only boat; make the rest a class"):
        build_strategy(name, one, tiny_config("UDA.NAME", name).UDA)
