"""Colour jitter and Gaussian blur for mixed images, drawn independently for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class StrongAugmentation:
    """The strong augmentation of DACS and DAFormer, in the arithmetic of kornia 0.5.8.

    Brightness is added, contrast multiplied, each then clamped to 0..1; saturation and hue act in
    HSV. Three differences from the released code: the four steps come in this fixed order, not in
    a random one; the decision whether to augment is drawn per image, in the release per batch; and
    the blur's kernel ends at four of the greatest standard deviations.

    Args:
        jitter: strength s: brightness and hue (in turns) move by up to s, contrast and saturation
            by up to the factor 1 +- s; 0..1.
        jitter_probability: probability of jitter; the release's setting is 0.2, but its code
            applies 0.8.
        blur_probability: probability of blur.
        min_sigma: least standard deviation of the blur, pixels, > 0.
        max_sigma: greatest one.
    """

    jitter: float = 0.2
    jitter_probability: float = 0.8
    blur_probability: float = 0.5
    min_sigma: float = 0.15
    max_sigma: float = 1.15

    def __post_init__(self) -> None:
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter}; expected 0..1")
        if not 0 < self.min_sigma <= self.max_sigma:
            raise ValueError(
                f"the blur's sigma range is {self.min_sigma}..{self.max_sigma}; "
                "expected 0 < least <= greatest"
            )

    def draw(self, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Draws the parameters of each image, always with the same number of random draws.

        Args:
            rngs: one generator per image.

        Returns:
            (N, 7) float32 on the CPU. Columns: jittered or not (1 or 0), brightness (added),
            contrast (factor), saturation (factor), hue (turns), blurred or not (1 or 0), sigma of
            the blur (pixels).
        """
        uniform = np.stack([rng.random(7) for rng in rngs])
        low = np.array([0, -self.jitter, 1 - self.jitter, 1 - self.jitter, -self.jitter, 0, 0])
        high = np.array([1, self.jitter, 1 + self.jitter, 1 + self.jitter, self.jitter, 1, 0])
        low[6], high[6] = self.min_sigma, self.max_sigma
        values = low + uniform * (high - low)
        values[:, 0] = uniform[:, 0] < self.jitter_probability
        values[:, 5] = uniform[:, 5] < self.blur_probability
        return torch.from_numpy(values.astype(np.float32))

    @torch.no_grad()
    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Applies jitter, then blur; images drawn for neither are returned unchanged.

        Args:
            images: (N, 3, H, W) RGB in 0..1, any floating dtype; H and W greater than the blur's
                radius, ceil(4 max_sigma).
            parameters: (N, 7) from ``draw``, on the images' device.

        Returns:
            (N, 3, H, W) of the images' dtype; computed in float32, under autocast too.
        """
        columns = parameters.float().view(-1, 7, 1, 1, 1).unbind(1)
        jittered, brightness, contrast, saturation, hue, blurred, sigma = columns
        with torch.autocast(images.device.type, enabled=False):
            wide = images.float()
            changed = (wide + brightness).clamp_(0, 1).mul_(contrast).clamp_(0, 1)
            wide = torch.where(jittered > 0, _adjust_hsv(changed, saturation, hue), wide)
            radius = math.ceil(4 * self.max_sigma)
            wide = torch.where(blurred > 0, _blur(wide, sigma, radius), wide)
        return wide.to(images.dtype)


def _adjust_hsv(images: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Multiplies the saturation, clamped to 0..1, and rotates the hue.

    Args:
        images: (N, 3, H, W) RGB in 0..1.
        saturation: (N, 1, 1, 1) factor >= 0.
        hue: (N, 1, 1, 1) in turns, any sign.
    """
    red, green, blue = images.split(1, dim=1)
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    # The hue in sixths of a turn; a grey pixel has no hue, so any value will do.
    is_red, is_green = value == red, value == green
    difference = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    sixths = difference.div_(chroma.clamp(min=torch.finfo(chroma.dtype).tiny))
    sixths += torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))
    sixths += 6 * hue
    # HSV to RGB in closed form: channel = V - C max(0, min(k, 4 - k, 1)), k = (n + hue) mod 6 with
    # n = 5, 3, 1 for red, green, blue. C = V S, so the clamp S <= 1 is C <= V.
    chroma = torch.minimum(chroma.mul_(saturation), value)
    phase = torch.arange(5, 0, -2, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    k = (sixths + phase).remainder_(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


def _blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Convolves each image with its own Gaussian; borders are mirrored without the edge pixel.

    Args:
        images: (N, C, H, W).
        sigma: (N, 1, 1, 1) standard deviations, pixels.
        radius: the kernel has 2 radius + 1 taps.
    """
    taps = torch.arange(radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma.view(-1, 1)) ** 2)
    kernel = kernel / (2 * kernel.sum(1, keepdim=True) - kernel[:, :1])
    weights = kernel.view(-1, radius + 1, 1, 1, 1).unbind(1)
    blurred = functional.pad(images, (radius,) * 4, mode="reflect")
    for axis in (2, 3):
        # Weighted shifts: half the time of a grouped convolution on a CPU, and never in TF32.
        whole, size = blurred, blurred.shape[axis] - 2 * radius
        blurred = weights[0] * whole.narrow(axis, radius, size)
        for tap in range(1, radius + 1):
            for start in (radius - tap, radius + tap):
                blurred.addcmul_(weights[tap], whole.narrow(axis, start, size))
    return blurred
