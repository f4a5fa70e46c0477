"""Triton kernels for the cross-entropy of bilinearly upsampled logits on a GPU.

There are no atomic operations: the gradient is gathered per low-resolution pixel, which recomputes
the softmax of all pixels that it contributes to, and sums are accumulated per program. Results are
therefore reproducible. The kernels are tested by Triton's interpreter and compile for NVIDIA GPUs;
they have not been measured on one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from gbw_d2.ops.upsampling import positions

# Elements of one tile, classes x pixels, and the number of tiles per program.
TILE = 4096
TILES = 16


@triton.jit
def _log1p(x):
    # Kahan's correction of the rounding error of adding 1.
    one_more = 1 + x
    return tl.log(one_more) + (x - (one_more - 1)) / one_more


@triton.jit
def _upsampled(
    logits, image, strides, y0, y1, ty, x0, x1, tx, shift, inside, CLASSES: tl.constexpr,
    PADDED: tl.constexpr,
):  # fmt: skip
    """Interpolates logits (PADDED, pixels) between rows y0, y1 and columns x0, x1; -inf beyond."""
    k = tl.arange(0, PADDED)[:, None]
    stride_n, stride_k, stride_y, stride_x = strides
    base = logits + image.to(tl.int64) * stride_n + k.to(tl.int64) * stride_k
    mask = (k < CLASSES) & inside[None, :]
    dtype: tl.constexpr = shift.dtype.element_ty
    a = tl.load(base + (y0 * stride_y + x0 * stride_x)[None, :], mask, 0.0).to(dtype)
    b = tl.load(base + (y0 * stride_y + x1 * stride_x)[None, :], mask, 0.0).to(dtype)
    c = tl.load(base + (y1 * stride_y + x0 * stride_x)[None, :], mask, 0.0).to(dtype)
    d = tl.load(base + (y1 * stride_y + x1 * stride_x)[None, :], mask, 0.0).to(dtype)
    right, below = tx[None, :], ty[None, :]
    # 0 times an infinite logit would be NaN.
    upper = (1 - right) * a + tl.where(right > 0, right * b, 0.0)
    lower = (1 - right) * c + tl.where(right > 0, right * d, 0.0)
    z = (1 - below) * upper + tl.where(below > 0, below * lower, 0.0)
    z += tl.load(shift + k, k < CLASSES, 0.0)
    return tl.where(k < CLASSES, z, float("-inf"))


@triton.jit
def _softmax_parts(z, label, PADDED: tl.constexpr):
    """Returns exp(z - top), 0 at the label; top, sum of the others, denominator, cross-entropy."""
    at_label = tl.arange(0, PADDED)[:, None] == label[None, :]
    top = tl.max(z, 0)
    below = tl.sum(tl.where(at_label, z - top[None, :], 0.0), 0)
    exponentials = tl.where(at_label, 0.0, tl.exp(z - top[None, :]))
    others = tl.sum(exponentials, 0)
    own = tl.exp(below)
    return exponentials, top, others, others + own, _log1p(others + (own - 1)) - below


@triton.jit
def _pixel_kernel(
    logits, strides, y_lower, y_part, x_lower, x_part, height, width, shift,
    targets, table, pixel_weights, importance, top_out, scale_out, label_out, loss_out, square_out,
    out_height, out_width, CLASSES: tl.constexpr, PADDED: tl.constexpr, PIXELS: tl.constexpr,
    REPEATS: tl.constexpr, GAMMA: tl.constexpr, NORMS: tl.constexpr,
):  # fmt: skip
    """A pass over the pixels: loss sums per class, and squared norms or the gradient's inputs."""
    image, program = tl.program_id(1), tl.program_id(0)
    dtype: tl.constexpr = shift.dtype.element_ty
    classes = tl.arange(0, PADDED)
    sums = tl.zeros((PADDED,), dtype)
    squares = tl.zeros((PADDED,), dtype)
    for repeat in range(REPEATS):
        pixel = (program * REPEATS + repeat) * PIXELS + tl.arange(0, PIXELS)
        inside = pixel < out_height * out_width
        y, x = pixel // out_width, pixel % out_width
        where = image.to(tl.int64) * out_height * out_width + pixel
        y0, x0 = tl.load(y_lower + y, inside, 0), tl.load(x_lower + x, inside, 0)
        y1, x1 = tl.minimum(y0 + 1, height - 1), tl.minimum(x0 + 1, width - 1)
        ty, tx = tl.load(y_part + y, inside, 0.0), tl.load(x_part + x, inside, 0.0)
        z = _upsampled(
            logits, image, strides, y0, y1, ty, x0, x1, tx, shift, inside, CLASSES, PADDED
        )
        target = tl.load(targets + where, inside, CLASSES)
        label = tl.minimum(target, CLASSES - 1).to(tl.int32)
        exponentials, top, others, total, loss = _softmax_parts(z, label, PADDED)
        factor = tl.load(table + target, inside, 0.0)
        wrong = others / total
        if GAMMA > 0:
            focal = tl.where(wrong > 0, tl.exp(GAMMA * tl.log(wrong)), 0.0)
            ratio = tl.where(wrong > 0, loss / wrong, 1.0)
            slope = focal * (1 + GAMMA * (1 - wrong) * ratio)
            loss *= focal
        else:
            slope = tl.full((PIXELS,), 1.0, dtype)
        loss *= tl.load(pixel_weights + where, inside, 0.0)
        is_target = (classes[:, None] == target[None, :]) & inside[None, :]
        sums += tl.sum(tl.where(is_target, loss[None, :], 0.0), 1)
        if NORMS:
            scale = factor * tl.load(importance + where, inside, 0.0) / total
            at_label = classes[:, None] == label[None, :]
            gradient = tl.where(at_label, others[None, :], exponentials) * scale[None, :]
            squares += tl.sum(gradient * gradient, 1)
        else:
            scale = factor * tl.load(pixel_weights + where, inside, 0.0) * slope / total
            tl.store(top_out + where, top, inside)
            tl.store(scale_out + where, scale, inside)
            tl.store(label_out + where, -scale * others, inside)
    row = (image * tl.num_programs(0) + program) * PADDED + classes
    tl.store(loss_out + row, sums)
    if NORMS:
        tl.store(square_out + row, squares)


@triton.jit
def _gradient_kernel(
    logits, strides, y_lower, y_part, x_lower, x_part, height, width, shift, targets,
    y_first, y_end, x_first, x_end, longest, top_in, scale_in, label_in, gradient,
    out_height, out_width, CLASSES: tl.constexpr, PADDED: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Computes the gradient (N, h, K, w) at some low-resolution pixels of one row."""
    image, row = tl.program_id(2), tl.program_id(1)
    dtype: tl.constexpr = shift.dtype.element_ty
    column = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    exists = column < width
    first, end = tl.load(x_first + column, exists, 0), tl.load(x_end + column, exists, 0)
    classes = tl.arange(0, PADDED)
    total = tl.zeros((PADDED, PIXELS), dtype)
    for y in range(tl.load(y_first + row), tl.load(y_end + row)):
        y0, below = tl.load(y_lower + y), tl.load(y_part + y)
        y1 = tl.minimum(y0 + 1, height - 1)
        of_row = tl.where(y0 == row, 1 - below, 0.0) + tl.where(y1 == row, below, 0.0)
        for step in range(longest):
            x = first + step
            inside = x < end
            x0, right = tl.load(x_lower + x, inside, 0), tl.load(x_part + x, inside, 0.0)
            x1 = tl.minimum(x0 + 1, width - 1)
            of_column = tl.where(x0 == column, 1 - right, 0.0) + tl.where(x1 == column, right, 0.0)
            one = tl.full((PIXELS,), 1, tl.int32)
            z = _upsampled(
                logits, image, strides, y0 * one, y1 * one, below * one.to(dtype), x0, x1, right,
                shift, inside, CLASSES, PADDED,
            )  # fmt: skip
            where = image.to(tl.int64) * out_height * out_width + y * out_width + x
            label = tl.minimum(tl.load(targets + where, inside, 0), CLASSES - 1)
            top = tl.load(top_in + where, inside, 0.0)
            scale = tl.load(scale_in + where, inside, 0.0)
            at_label = tl.load(label_in + where, inside, 0.0)
            part = tl.exp(z - top[None, :]) * scale[None, :]
            part = tl.where(classes[:, None] == label[None, :], at_label[None, :], part)
            weight = tl.where(inside, of_row * of_column, 0.0)
            total += tl.where(inside[None, :], part * weight[None, :], 0.0)
    place = (image.to(tl.int64) * height + row) * CLASSES * width
    place = place + classes[:, None] * width + column[None, :]
    tl.store(gradient + place, total, (classes[:, None] < CLASSES) & exists[None, :])


@lru_cache(maxsize=64)
def _axis(size: int, out_size: int, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Returns each output's inputs on an axis, and each input's outputs: first, end, maximum."""
    lower, _, part = positions(size, out_size)
    at = np.arange(size)
    first = np.searchsorted(lower, at - 1)
    end = np.searchsorted(lower, at, side="right")
    places = {"lower": lower, "first": first, "end": end}
    table = {k: torch.from_numpy(v).to(device, torch.int32) for k, v in places.items()}
    longest = int((end - first).max())
    return {**table, "part": torch.from_numpy(part).to(device, dtype), "longest": longest}


class _Setting:
    """The arguments of both kernels."""

    def __init__(self, logits: Tensor, targets: Tensor, shift: Tensor | None) -> None:
        self.logits, self.targets = logits, targets.contiguous()
        self.dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.images, self.classes, self.height, self.width = logits.shape
        self.out_height, self.out_width = targets.shape[1:]
        device = logits.device
        self.y = _axis(self.height, self.out_height, self.dtype, device)
        self.x = _axis(self.width, self.out_width, self.dtype, device)
        if shift is None:
            shift = torch.zeros(self.classes, dtype=self.dtype, device=device)
        self.shift = shift.to(self.dtype)
        self.padded = triton.next_power_of_2(self.classes)
        self.pixels = max(1, TILE // self.padded)

    def first_arguments(self) -> tuple[Any, ...]:
        y, x = self.y, self.x
        sizes = (self.height, self.width, self.shift)
        return (
            self.logits,
            self.logits.stride(),
            *(
                *(y["lower"], y["part"], x["lower"], x["part"]),
                *sizes,
            ),
        )

    def map(self, values: Tensor | None) -> Tensor:
        """Returns per-pixel values in the kernels' layout, 1 for None."""
        if values is None:
            return torch.ones_like(self.targets, dtype=self.dtype)
        return values.to(self.dtype).contiguous()

    def pixel_pass(
        self,
        table: Tensor,
        pixel_weights: Tensor | None,
        importance: Tensor | None,
        gamma: float,
        norms: bool,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Returns (K,) float64 loss sums and squared norms, and maps for ``gradient``."""
        programs = triton.cdiv(self.out_height * self.out_width, self.pixels * TILES)
        sums = self.shift.new_empty(2, self.images, programs, self.padded)
        maps = [self.shift.new_empty(self.targets.shape if not norms else 0) for _ in range(3)]
        table = torch.cat([table.to(self.dtype), table.new_zeros(1, dtype=self.dtype)])
        weights = self.map(pixel_weights)
        shaping = weights if importance is pixel_weights else self.map(importance)
        _pixel_kernel[(programs, self.images)](
            *self.first_arguments(),
            *(self.targets, table, weights, shaping, *maps, sums[0], sums[1]),
            *(self.out_height, self.out_width, self.classes, self.padded, self.pixels, TILES),
            *(float(gamma), norms),
        )
        if not norms:
            sums[1].zero_()
        losses, squares = sums.sum((1, 2), dtype=torch.float64)[:, : self.classes]
        return losses, squares, maps

    def gradient(self, maps: list[Tensor]) -> Tensor:
        """Returns the gradient (N, h, K, w) in the low-resolution logits."""
        gradient = self.shift.new_empty(self.images, self.height, self.classes, self.width)
        pixels = min(self.pixels, triton.next_power_of_2(self.width))
        y, x = self.y, self.x
        _gradient_kernel[(triton.cdiv(self.width, pixels), self.height, self.images)](
            *self.first_arguments(),
            *(self.targets, y["first"], y["end"], x["first"], x["end"], x["longest"]),
            *(*maps, gradient, self.out_height, self.out_width),
            *(self.classes, self.padded, pixels),
        )
        return gradient


def loss_and_gradient(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    pixel_weights: Tensor | None,
    shift: Tensor | None,
    gamma: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Computes sum_i q_i w_{y_i} (1 - p_y)^gamma CE_i and its gradient.

    Args:
        logits: (N, K, h, w), any floating dtype and strides.
        targets: (N, H, W) int64, 0..K-1, or K at pixels without a class.
        weights: (K,).
        pixel_weights: (N, H, W) q, or None for 1.
        shift: (K,) to add to the logits, or None for 0.
        gamma: focal exponent, 0 for none.
        with_gradient: whether to compute the gradient.

    Returns:
        The sum, float64 without axes, and (N, h, K, w) or None.
    """
    setting = _Setting(logits, targets, shift)
    sums, _, maps = setting.pixel_pass(weights, pixel_weights, None, gamma, norms=False)
    loss = (sums * weights.double()).sum()
    return loss, setting.gradient(maps) if with_gradient else None


def norms_and_loss_sums(
    logits: Tensor,
    targets: Tensor,
    importance: Tensor,
    pixel_weights: Tensor | None,
    shaping: Tensor | None,
    shift: Tensor | None,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    """Computes sum_i (a_{y_i} v_i (p_k(i) - [y_i = k]))^2 and sums of q_i (1 - p_y)^gamma CE_i.

    Args:
        logits: (N, K, h, w).
        targets: (N, H, W) as in ``loss_and_gradient``.
        importance: (K,) a.
        pixel_weights: (N, H, W) q, or None for 1.
        shaping: (N, H, W) v, or None for 1.
        shift: (K,), or None for 0.
        gamma: focal exponent of the loss sums.

    Returns:
        Squared norms and loss sums, each (K,) float64.
    """
    setting = _Setting(logits, targets, shift)
    sums, squared, _ = setting.pixel_pass(importance, pixel_weights, shaping, gamma, norms=True)
    return squared, sums
