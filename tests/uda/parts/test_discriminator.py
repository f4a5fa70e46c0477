"""The discriminator, its inputs, and its frozen state."""

from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gbw_d2.losses import ADVERSARIAL_LOSSES
from gbw_d2.uda.parts.discriminator import (
    DISCRIMINATOR_INPUTS,
    Discriminator,
    frozen,
    seeded,
    self_information_map,
    softmax_map,
)


def test_shape_and_parameters() -> None:
    net = Discriminator(19, 64)
    # 16 weights per pair of channels and one bias per output.
    pairs = ((19, 64), (64, 128), (128, 256), (256, 512), (512, 1))
    assert sum(p.numel() for p in net.parameters()) == sum(16 * a * b + b for a, b in pairs)
    assert net(torch.randn(2, 19, 64, 101)).shape == (2, 1, 2, 3)


def test_layers_against_plain_convolutions() -> None:
    torch.manual_seed(0)
    net = Discriminator(3, 4)
    net[-1].bias.data.fill_(-1)
    x = maps = torch.randn(1, 3, 32, 64)
    convolutions = [layer for layer in net if isinstance(layer, torch.nn.Conv2d)]
    for i, conv in enumerate(convolutions):
        x = torch.nn.functional.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
        x = torch.where(x > 0, x, 0.2 * x) if i < 4 else x
    torch.testing.assert_close(net(maps), x)
    assert (x < 0).any()  # no rectifier after the last one


def test_small_maps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"16 x 64 pixels; it needs 32 x 32"):
        Discriminator(3, 4)(torch.zeros(1, 3, 16, 64))


def test_maps_of_uniform_and_certain_predictions() -> None:
    uniform = torch.zeros(2, 5, 3, 3)
    torch.testing.assert_close(softmax_map(uniform), torch.full_like(uniform, 1 / 5))
    torch.testing.assert_close(self_information_map(uniform), torch.full_like(uniform, 1 / 5))
    certain = uniform.clone()
    certain[:, 2] = 1e4
    assert torch.equal(self_information_map(certain), torch.zeros_like(certain))


def test_self_information_by_hand() -> None:
    # K = 2, p = (1/4, 3/4): -p log2 p.
    logits = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1, 1)
    expected = [0.25 * 2, 0.75 * (2 - math.log2(3))]
    assert self_information_map(logits).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", DISCRIMINATOR_INPUTS.names())
def test_map_gradients(name: str) -> None:
    make = DISCRIMINATOR_INPUTS.get(name)
    logits = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(make, logits)
    extreme = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    make(extreme).sum().backward()
    assert torch.isfinite(extreme.grad).all()


def test_frozen_restores_what_was() -> None:
    nets = [Discriminator(3, 4), Discriminator(3, 4)]
    nets[1][0].bias.requires_grad_(False)
    before = [p.requires_grad for net in nets for p in net.parameters()]
    with pytest.raises(KeyError), frozen(nets):
        assert not any(p.requires_grad for net in nets for p in net.parameters())
        raise KeyError
    assert [p.requires_grad for net in nets for p in net.parameters()] == before


def test_a_graph_built_while_frozen_stays_so() -> None:
    net = Discriminator(3, 4)
    maps = torch.randn(1, 3, 32, 32, requires_grad=True)
    with frozen([net]):
        score = net(maps).sum()
    score.backward()
    assert maps.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.parameters())


def test_seeded_initialisation() -> None:
    def make(seed: int) -> torch.Tensor:
        with seeded(seed):
            return Discriminator(3, 4)[0].weight

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = make(1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, make(1)) and not torch.equal(first, make(2))


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_nothing_waits_for_the_device() -> None:
    # Fake CUDA tensors have no values that a host could look at.
    with FakeTensorMode():
        logits = torch.rand(2, 19, 32, 64, device="cuda")
        with torch.device("cuda"):
            net = Discriminator(19, 8)
        for make in map(DISCRIMINATOR_INPUTS.get, DISCRIMINATOR_INPUTS.names()):
            with frozen([net]):
                scores = net(make(logits))
            for loss in map(ADVERSARIAL_LOSSES.get, ADVERSARIAL_LOSSES.names()):
                assert loss(scores, 1.0).device.type == "cuda"
