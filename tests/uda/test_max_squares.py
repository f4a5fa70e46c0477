"""max_squares: what is added on the target, and the multi-level guidance."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gbw_d2.engine.build import build_model
from gbw_d2.errors import UserError
from gbw_d2.losses import max_squares_loss
from gbw_d2.uda import build_strategy
from gbw_d2.uda.max_squares import kept_cross_entropy, multi_level_labels

AUXILIARY = (
    *("MODEL.AUXILIARY_HEAD.ENABLED", True, "MODEL.AUXILIARY_HEAD.IN_FEATURE", "res3"),
    *("MODEL.AUXILIARY_HEAD.CHANNELS", 32),
)


def logits_of(*pixels: tuple[float, ...]) -> torch.Tensor:
    """Returns logits (1, K, 1, number of pixels) with these probabilities."""
    return torch.tensor(pixels).log().T[None, :, None]


def build(tiny_config: Any, *overrides: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    cfg = tiny_config(*overrides, name="toy/semantic_gbw")
    return build_model(cfg).train(), cfg


def target_logits(model: Any, target: list[dict]) -> dict[str, torch.Tensor]:
    images = model.images(target)
    return model.outputs(model.features(images), tuple(images.shape[-2:]))


def test_labels_by_hand() -> None:
    # Pixel 0: the main head alone is sure. 1: the auxiliary head alone, and its class leads the
    # mean. 2: none is sure. 3: exactly at the threshold is not above it. 4: both, and the mean
    # (0.4, 0.1, 0.5) follows the surer one.
    main = logits_of(
        (0.7, 0.2, 0.1), (0.45, 0.4, 0.15), (0.4, 0.3, 0.3), (0.5, 0.5, 0), (0.8, 0.2, 0)
    )
    other = logits_of((0.4, 0.35, 0.25), (0.1, 0.9, 0), (0.4, 0.3, 0.3), (0.5, 0.5, 0), (0, 0, 1))
    assert multi_level_labels(main, other, 0.5).tolist() == [[[0, 1, 255, 255, 2]]]


def test_each_head_has_its_own_maximum() -> None:
    # The mean (0.505, 0.495) is not sure; the main head is.
    labels = multi_level_labels(logits_of((0.98, 0.02)), logits_of((0.03, 0.97)), 0.975)
    assert labels.item() == 0


def test_cross_entropy_per_image() -> None:
    uniform = torch.zeros(2, 4, 1, 3)
    uniform[1, 0] = math.log(5.0)  # p = 5/8 for class 0
    labels = torch.tensor([[[0, 255, 255]], [[0, 0, 255]]])
    expected = (math.log(4) + math.log(8 / 5)) / 2
    assert kept_cross_entropy(uniform, labels).item() == pytest.approx(expected)


def test_no_label_is_no_gradient() -> None:
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    loss = kept_cross_entropy(logits, torch.full((2, 3, 3), 255))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_batch_is_the_mean_of_its_images() -> None:
    logits = torch.randn(3, 4, 5, 5)
    labels = torch.randint(0, 4, (3, 5, 5))
    labels[0, 1:] = 255
    labels[2] = 255
    each = [kept_cross_entropy(logits[i : i + 1], labels[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(kept_cross_entropy(logits, labels), torch.stack(each).mean())


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_nothing_waits_for_the_device() -> None:
    # Fake CUDA tensors have no values that a host could look at.
    with FakeTensorMode():
        main, auxiliary = (torch.rand(2, 19, 32, 64, device="cuda") for _ in range(2))
        labels = multi_level_labels(main, auxiliary, 0.9)
        losses = [kept_cross_entropy(auxiliary, labels)]
        losses += [max_squares_loss(main, ratio) for ratio in (None, 0.2)]
        assert all(loss.device.type == "cuda" for loss in losses)


@pytest.mark.parametrize(("key", "ratio"), [(0.2, 0.2), (0.0, 0.0), (-1.0, None)])
def test_the_target_loss(tiny_config: Any, samples: Any, key: float, ratio: float | None) -> None:
    model, cfg = build(tiny_config, "UDA.MAX_SQUARES.IMAGE_WEIGHTING_RATIO", key)
    target = samples(seed=1)
    source, losses = build_strategy("max_squares", model, cfg.UDA).training_losses(
        samples(), target, 0
    )
    assert set(source) == {"loss_semantic"}
    logits = target_logits(model, target).semantic.dense()
    assert {k: v.item() for k, v in losses.items()} == {
        "loss_max_squares": pytest.approx(0.1 * max_squares_loss(logits, ratio).item(), rel=1e-5)
    }


def test_multi_level(tiny_config: Any, samples: Any) -> None:
    model, cfg = build(tiny_config, *AUXILIARY, "UDA.MAX_SQUARES.MULTI_LEVEL", True)
    # An untrained network is nowhere surer than this.
    cfg.UDA.MAX_SQUARES.THRESHOLD = 0.12
    target = samples(seed=1)
    strategy = build_strategy("max_squares", model, cfg.UDA)
    source, losses = strategy.training_losses(samples(), target, 0)
    assert set(source) == {"loss_semantic", "loss_auxiliary"}
    outputs = target_logits(model, target)
    main, auxiliary = outputs.semantic.dense(), outputs.auxiliary.dense()
    labels = multi_level_labels(main, auxiliary, 0.12)
    assert 0 < (labels != 255).float().mean() < 1
    expected = 0.1 * 0.1 * kept_cross_entropy(auxiliary, labels).item()
    assert losses["loss_multi_level"].item() == pytest.approx(expected, rel=1e-5)


def test_the_guidance_teaches_the_auxiliary_head_alone(tiny_config: Any, samples: Any) -> None:
    model, cfg = build(tiny_config, *AUXILIARY, "UDA.MAX_SQUARES.MULTI_LEVEL", True)
    cfg.UDA.MAX_SQUARES.THRESHOLD = 0.0
    strategy = build_strategy("max_squares", model, cfg.UDA)
    _, losses = strategy.training_losses(samples(), samples(seed=1), 0)
    losses["loss_multi_level"].backward()
    assert all(p.grad is None for p in model.sem_seg_head.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.auxiliary_head.parameters())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MULTI_LEVEL", True, "MODEL.AUXILIARY_HEAD.ENABLED True"),
        ("HALF", "yes", "UDA.MAX_SQUARES: half is 'yes'; expected one of auto, always, never"),
        ("IMAGE_WEIGHTING_RATIO", 2.0, r"UDA.MAX_SQUARES: .* is 2.0; expected 0\.\.1"),
    ],
)
def test_mistakes(tiny_config: Any, key: str, value: Any, message: str) -> None:
    model, cfg = build(tiny_config)
    # Not by a config, which refuses numbers out of range before.
    cfg.UDA.MAX_SQUARES[key] = value
    with pytest.raises(UserError, match=message):
        build_strategy("max_squares", model, cfg.UDA)
