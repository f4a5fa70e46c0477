"""adversarial: which parameters get which gradient, the losses, optimisers and schedules."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from gbw_d2.config import load_config
from gbw_d2.engine.build import build_model
from gbw_d2.registry import UnknownNameError
from gbw_d2.uda import Strategy, build_strategy
from gbw_d2.uda.parts.discriminator import self_information_map, softmax_map

AUXILIARY = (
    *("MODEL.AUXILIARY_HEAD.ENABLED", True, "MODEL.AUXILIARY_HEAD.IN_FEATURE", "res3"),
    *("MODEL.AUXILIARY_HEAD.CHANNELS", 32),
)


@pytest.fixture
def build(tiny_config: Any) -> Any:
    """Returns a function: overrides -> strategy with a narrow discriminator."""

    def make(*overrides: Any, seed: int = 0, max_iter: int = 10) -> Strategy:
        torch.manual_seed(0)
        cfg = tiny_config("UDA.ADVERSARIAL.CHANNELS", 8, *overrides, name="toy/semantic_gbw")
        model = build_model(cfg).train()
        return build_strategy("adversarial", model, cfg.UDA, seed, max_iter)

    return make


def backward(losses: dict[str, torch.Tensor]) -> None:
    torch.stack(list(losses.values())).sum().backward()


def gradients(module: torch.nn.Module) -> list[torch.Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def step(strategy: Strategy, source: list[dict], target: list[dict], iteration: int = 0) -> None:
    """Does what the trainer does, for the discriminators."""
    extra = strategy.optimizers().values()
    for each in extra:
        each.optimizer.zero_grad()
    for losses in strategy.training_losses(source, target, iteration):
        backward(losses)
    for each in extra:
        each.optimizer.step()


@pytest.mark.parametrize("overrides", [(), AUXILIARY], ids=["single", "multi"])
def test_who_gets_which_gradient(build: Any, samples: Any, overrides: tuple) -> None:
    strategy = build(*overrides)
    model = strategy.model
    heads = ("semantic", "auxiliary") if overrides else ("semantic",)
    modules = strategy.modules()
    assert list(modules) == [f"discriminator_{head}" for head in heads]
    parameters = [p for module in modules.values() for p in module.parameters()]

    parts = strategy.training_losses(samples(), samples(seed=1), 0)
    losses = next(parts)
    assert set(losses) == {f"loss_{head}" for head in heads}
    backward(losses)
    before = gradients(model)

    losses = next(parts)
    assert list(losses) == [f"loss_adversarial_{head}" for head in heads]
    assert all(p.requires_grad for p in parameters)
    backward(losses)
    assert all(p.grad is None for p in parameters)
    after = gradients(model)
    assert all((a - b).abs().sum() > 0 for a, b in zip(after, before, strict=True))

    losses = next(parts)
    assert list(losses) == [f"loss_discriminator_{head}" for head in heads]
    backward(losses)
    assert all(p.grad.abs().sum() > 0 for p in parameters)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model), after, strict=True))
    assert next(parts, None) is None


def test_scores_of_zero(build: Any, samples: Any) -> None:
    strategy = build(*AUXILIARY)
    for module in strategy.modules().values():
        torch.nn.init.zeros_(module[-1].weight)
        torch.nn.init.zeros_(module[-1].bias)
    _, student, discriminators = strategy.training_losses(samples(), samples(seed=1), 0)
    values = {k: v.item() for k, v in {**student, **discriminators}.items()}
    assert values == pytest.approx(
        {
            "loss_adversarial_semantic": 0.001 * math.log(2),
            "loss_adversarial_auxiliary": 0.0002 * math.log(2),
            "loss_discriminator_semantic": math.log(2),
            "loss_discriminator_auxiliary": math.log(2),
        }
    )


@pytest.mark.parametrize(
    ("name", "make_map"), [("softmax", softmax_map), ("self_information", self_information_map)]
)
def test_losses_from_the_definition(build: Any, samples: Any, name: str, make_map: Any) -> None:
    strategy = build("UDA.ADVERSARIAL.INPUT", name, "UDA.ADVERSARIAL.LOSS", "least_squares")
    source, target = samples(), samples(seed=1)
    _, student, discriminator = strategy.training_losses(source, target, 0)

    def scores(batch: list[dict]) -> torch.Tensor:
        images = strategy.model.images(batch)
        outputs = strategy.model.outputs(strategy.model.features(images), (32, 64))
        (net,) = strategy.modules().values()
        return net(make_map(outputs.semantic.dense()))

    # Source is 0, target is 1; the student wants its target to be taken for source.
    of_source, of_target = scores(source), scores(target)
    expected = 0.001 * of_target.square().mean()
    assert student["loss_adversarial_semantic"].item() == pytest.approx(expected.item(), rel=1e-4)
    halves = (of_source.square().mean() + (of_target - 1).square().mean()) / 2
    assert discriminator["loss_discriminator_semantic"].item() == pytest.approx(
        halves.item(), rel=1e-4
    )


def test_the_discriminator_learns_to_tell_the_domains(build: Any, samples: Any) -> None:
    strategy = build("UDA.ADVERSARIAL.BASE_LR", 0.01)
    source, target = samples(), samples(seed=1)
    # An untrained network predicts the same everywhere; a louder classifier does not.
    strategy.model.sem_seg_head.predictor.weight.data.mul_(1000)
    for sample in target:
        sample["image"] = sample["image"].flip(0).sort(-1).values

    def loss() -> float:
        return list(strategy.training_losses(source, target, 0))[2][
            "loss_discriminator_semantic"
        ].item()

    first = loss()
    for _ in range(8):
        step(strategy, source, target)
    assert loss() < first - 0.1


def test_optimisers_and_their_schedule(build: Any) -> None:
    strategy = build(*AUXILIARY, max_iter=100)
    extra = strategy.optimizers()
    assert list(extra) == ["discriminator_semantic", "discriminator_auxiliary"]
    for name, each in extra.items():
        assert each.module is strategy.modules()[name]
        assert isinstance(each.optimizer, torch.optim.Adam)
        (group,) = each.optimizer.param_groups
        assert (group["lr"], tuple(group["betas"])) == (1e-4, (0.9, 0.99))
        assert {id(p) for p in group["params"]} == {id(p) for p in each.module.parameters()}
        factors = [each.lr_factor(t) for t in (0, 0.25, 0.5, 1, 1.01)]
        assert factors == pytest.approx([1, 0.75**0.9, 0.5**0.9, 0, 0])


def test_the_same_seed_gives_the_same_steps(build: Any, samples: Any) -> None:
    def weights(seed: int, steps: int) -> torch.Tensor:
        strategy = build(seed=seed)
        for _ in range(steps):
            step(strategy, samples(), samples(seed=1))
        (module,) = strategy.modules().values()
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    assert torch.equal(weights(3, 2), weights(3, 2))
    assert not torch.equal(weights(3, 0), weights(4, 0))
    assert not torch.equal(weights(3, 0), weights(3, 1))


def test_the_two_heads_start_differently(build: Any) -> None:
    first, second = (next(m.parameters()) for m in build(*AUXILIARY).modules().values())
    assert not torch.equal(first, second)


def test_checkpoint_round_trip(build: Any, samples: Any) -> None:
    strategy = build()
    step(strategy, samples(), samples(seed=1))
    other = build(seed=1)
    for name, module in strategy.modules().items():
        other.modules()[name].load_state_dict(module.state_dict())
        theirs = other.optimizers()[name].optimizer
        # Adam takes the tensors of a state over; they must not be shared.
        theirs.load_state_dict(copy.deepcopy(strategy.optimizers()[name].optimizer.state_dict()))
    other.model.load_state_dict(strategy.model.state_dict())
    for each in (strategy, other):
        step(each, samples(seed=2), samples(seed=3), 1)
    for name, module in strategy.modules().items():
        theirs = other.modules()[name].state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize(
    ("key", "known"),
    [("INPUT", "self_information, softmax"), ("LOSS", "binary_cross_entropy, least_squares")],
)
def test_unknown_names(build: Any, key: str, known: str) -> None:
    with pytest.raises(UnknownNameError, match=f"UDA.ADVERSARIAL.{key}.*known: {known}"):
        build(f"UDA.ADVERSARIAL.{key}", "x")


@pytest.mark.parametrize(
    ("name", "map_name"), [("adversarial", "softmax"), ("advent", "self_information")]
)
def test_configs(tmp_path: Any, repository: Any, name: str, map_name: str) -> None:
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text(f"_BASE_: [{repository}/configs/base/uda/{name}.yaml]\nVERSION: 2\n")
    uda = load_config(str(leaf)).UDA
    assert uda.NAME == "adversarial"
    assert map_name == uda.ADVERSARIAL.INPUT
