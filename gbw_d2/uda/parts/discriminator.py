"""The discriminator of output-space adversarial training, and its input maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from gbw_d2.registry import Registry

DISCRIMINATOR_INPUTS: Registry[Callable[[Tensor], Tensor]] = Registry(
    "discriminator input (UDA.ADVERSARIAL.INPUT)"
)
# Five convolutions of stride 2.
STRIDE = 32


@DISCRIMINATOR_INPUTS.register("softmax")
def softmax_map(logits: Tensor) -> Tensor:
    """Returns the probabilities p (N, K, H, W) of logits (AdaptSegNet; Tsai et al., CVPR 2018)."""
    return _wide(logits).softmax(1)


@DISCRIMINATOR_INPUTS.register("self_information")
def self_information_map(logits: Tensor) -> Tensor:
    """Returns -p log p / log K (N, K, H, W) of logits (AdvEnt; Vu et al., CVPR 2019).

    The division by log K is in the released code. 1 / K everywhere for uniform p; its sum over
    the classes is the normalised entropy.
    """
    log_probabilities = _wide(logits).log_softmax(1)
    return -log_probabilities.exp() * log_probabilities / math.log(logits.shape[1])


class Discriminator(nn.Sequential):
    """Five 4 x 4 convolutions of stride 2 with leaky ReLU (0.2) between them (Tsai et al. 2018).

    Args:
        in_channels: K, channels of the maps.
        channels: of the first convolution; the next three have 2, 4 and 8 times as many, the last
            one has 1.
    """

    def __init__(self, in_channels: int, channels: int = 64) -> None:
        widths = [in_channels, channels, 2 * channels, 4 * channels, 8 * channels, 1]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        super().__init__(*layers[:-1])

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, K, H, W) to scores (N, 1, H // 32, W // 32), without a sigmoid.

        Raises:
            ValueError: H or W below 32.
        """
        if min(maps.shape[-2:]) < STRIDE:
            raise ValueError(
                f"the discriminator got maps of {maps.shape[-2]} x {maps.shape[-1]} pixels; it "
                f"needs {STRIDE} x {STRIDE} or more: enlarge INPUT.CROP_SIZE"
            )
        return super().forward(maps)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialises modules from a seed; the process's random state is restored at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Sets ``requires_grad`` of all parameters to False, and restores it at the end.

    A graph that is built inside gives the parameters no gradient, even if backward runs later.
    """
    parameters = [p for module in modules for p in module.parameters()]
    before = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.requires_grad_(value)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
