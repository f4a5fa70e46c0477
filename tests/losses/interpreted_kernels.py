"""The Triton kernels against the blocks, on the CPU by Triton's interpreter.

``test_upsampled_kernels.py`` runs this file in a process of its own: Triton settles how kernels run
when it is imported.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from gbw_d2.losses import upsampled as loss_module
from gbw_d2.losses.upsampled import weighted_cross_entropy
from gbw_d2.ops import upsampled_kernels
from gbw_d2.weighting import statistics as statistics_module
from gbw_d2.weighting.statistics import class_statistics

CLASSES = 3
OPTIONS = ("pixel_weights", "shift", "focal_gamma")


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    # Several tiles in a program, several programs, and a last one with gaps.
    monkeypatch.setattr(upsampled_kernels, "TILE", 16)
    monkeypatch.setattr(upsampled_kernels, "TILES", 3)
    return upsampled_kernels


def make_batch(size=(5, 7), low=(2, 3), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, CLASSES, *low, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, CLASSES + 1, (2, *size), generator=generator)
    q = torch.rand(2, *size, generator=generator, dtype=torch.float64)
    weights, shift = torch.rand(2, CLASSES, generator=generator, dtype=torch.float64)
    return logits.to(dtype), targets, q, weights, shift


def compute(logits, targets, weights, pixel_weights=None, shift=None, focal_gamma=0.0, **options):
    """Loss, gradient and statistics through the functions that choose the implementation."""
    leaf = logits.clone(memory_format=torch.preserve_format).requires_grad_()
    loss = weighted_cross_entropy(leaf, targets, weights, focal_gamma, pixel_weights, shift)
    (3 * loss).backward()
    statistics = class_statistics(
        logits,
        targets,
        torch.zeros((), dtype=torch.bool),
        pixel_weights,
        focal_gamma=focal_gamma,
        shift=shift,
        **options,
    )
    measure = statistics.measure
    squared = None if measure is None else measure.square()
    return loss.detach(), leaf.grad, squared, statistics.loss_sums


def compare(kernels, monkeypatch, tolerance, *arguments, **options) -> None:
    expected = compute(*arguments, **options)
    calls = []
    for module in (loss_module, statistics_module):
        monkeypatch.setattr(module, "kernels_for", lambda logits: calls.append(0) or kernels)
    found = compute(*arguments, **options)
    assert len(calls) == 2
    for mine, other in zip(found, expected, strict=True):
        assert mine.dtype == other.dtype
        assert mine.shape == other.shape
        assert (mine.double() - other.double()).norm() <= tolerance * other.double().norm()


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3), (1, 2), (1, 7)])
def test_any_size_ratio(interpreted, monkeypatch, size) -> None:
    logits, targets, _, weights, _ = make_batch(size)
    compare(interpreted, monkeypatch, 1e-12, logits, targets, weights)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
@pytest.mark.parametrize("in_gradient", [False, True])
def test_pixel_weights_shift_and_focal_factor(interpreted, monkeypatch, in_gradient, gamma) -> None:
    logits, targets, *rest = make_batch((3, 4))
    options = dict(zip(OPTIONS, (rest[0], rest[2], gamma), strict=True))
    options["pixel_weights_in_gradient"] = in_gradient
    compare(interpreted, monkeypatch, 1e-12, logits, targets, rest[1], **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_and_memory_formats(interpreted, monkeypatch, dtype) -> None:
    logits, targets, _, weights, _ = make_batch((3, 4), dtype=dtype)
    logits = logits.contiguous(memory_format=torch.channels_last)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-3
    compare(interpreted, monkeypatch, tolerance, logits, targets, weights)


def test_confident_pixels_keep_their_digits(interpreted, monkeypatch) -> None:
    logits, targets, _, weights, _ = make_batch((3, 4), dtype=torch.float32)
    logits[:, 1] += 40
    targets.fill_(1)
    compare(interpreted, monkeypatch, 1e-5, logits, targets, weights)
    compare(interpreted, monkeypatch, 1e-5, logits, targets, weights, focal_gamma=0.5)


def test_a_probability_of_zero_where_nothing_is_upsampled(interpreted, monkeypatch) -> None:
    logits, targets, _, weights, _ = make_batch((2, 3))
    logits[:, 2] = -torch.inf
    logits[0, 0, 0, 0] = -torch.inf
    targets = targets.fill_(1)
    compare(interpreted, monkeypatch, 1e-12, logits, targets, weights)


def test_without_a_gradient(interpreted) -> None:
    logits, targets, _, weights, _ = make_batch((3, 4))
    loss, gradient = interpreted.loss_and_gradient(
        logits, targets, weights, None, None, 0.0, with_gradient=False
    )
    assert gradient is None
    expected, _ = loss_module.loss_and_gradient(logits, targets, weights, None, None, 0.0, False)
    assert loss.item() == pytest.approx(expected.item())
