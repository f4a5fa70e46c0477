"""Colour jitter and blur against colorsys, a direct Gaussian, and cases by hand."""

import colorsys
import math

import numpy as np
import pytest
import torch

from gbw_d2.data.sampling import keyed_rng
from gbw_d2.uda.parts.strong_augmentation import StrongAugmentation

AUGMENTATION = StrongAugmentation()


def parameters(*rows: dict[str, float]) -> torch.Tensor:
    """Returns (N, 7) parameters that change nothing but what is named."""
    neutral = {
        "jittered": 0,
        "brightness": 0,
        "contrast": 1,
        "saturation": 1,
        "hue": 0,
        "blurred": 0,
        "sigma": 1,
    }
    return torch.tensor([list((neutral | row).values()) for row in rows], dtype=torch.float32)


def random_images(number: int = 2, rows: int = 12, columns: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.rand(number, 3, rows, columns, generator=torch.Generator().manual_seed(seed))


def colours(*rgb: tuple[float, float, float]) -> torch.Tensor:
    """Returns one 8x8 image per colour."""
    return torch.tensor(rgb)[:, :, None, None].repeat(1, 1, 8, 8)


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ((1, 0, 0), {"hue": 1 / 3}, (0, 1, 0)),
        ((1, 0, 0), {"hue": -1 / 3}, (0, 0, 1)),
        ((0, 0, 1), {"hue": 1 / 6}, (1, 0, 1)),
        ((0.5, 0.5, 0.5), {"hue": 0.2, "saturation": 1.2}, (0.5, 0.5, 0.5)),
        ((0, 0, 0), {"hue": 0.2, "contrast": 1.2}, (0, 0, 0)),
        # Brightness is added and clamped before contrast multiplies.
        ((0.9, 0.5, 0.1), {"brightness": 0.2, "contrast": 0.8}, (0.8, 0.56, 0.24)),
        ((0.5, 0.3, 0.1), {"brightness": -0.2}, (0.3, 0.1, 0.0)),
        ((0.5, 0.9, 0.5), {"contrast": 1.2}, (0.6, 1.0, 0.6)),
        # S = 1/2 becomes 0.6: the least channel is V (1 - S).
        ((0.8, 0.4, 0.4), {"saturation": 1.2}, (0.8, 0.32, 0.32)),
        ((0.8, 0.0, 0.0), {"saturation": 1.2}, (0.8, 0.0, 0.0)),
    ],
)
def test_jitter_by_hand(before: tuple, change: dict, after: tuple) -> None:
    images = colours(before)
    result = AUGMENTATION.apply(images, parameters({"jittered": 1, **change}))
    torch.testing.assert_close(result, colours(after), atol=2e-6, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_saturation_and_hue_agree_with_colorsys(seed: int) -> None:
    images = random_images(rows=6, columns=6, seed=seed)
    # Pixels where two or three channels are equal are where a hue is decided by order.
    images[:, 1, :2] = images[:, 0, :2]
    images[:, 2, 1:3] = images[:, 1, 1:3]
    images[:, 2, 4] = images[:, 0, 4]
    rng = np.random.default_rng(seed)
    rows = [
        {"jittered": 1, "saturation": rng.uniform(0.5, 1.9), "hue": rng.uniform(-0.9, 0.9)}
        for _ in range(2)
    ]
    result = AUGMENTATION.apply(images, parameters(*rows))
    for image, row, out in zip(images, rows, result, strict=True):
        pixels = image.double().flatten(1).T.tolist()
        expected = []
        for pixel in pixels:
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            expected.append(
                colorsys.hsv_to_rgb((h + row["hue"]) % 1, min(1, s * row["saturation"]), v)
            )
        torch.testing.assert_close(out.flatten(1).T, torch.tensor(expected), atol=1e-5, rtol=0)


def test_untouched_images_are_bit_identical() -> None:
    images = random_images(4)
    rows = [
        {"contrast": 1.1, "hue": 0.1, "brightness": 0.1},
        {"jittered": 1, "contrast": 0.9},
        {},
        {"blurred": 1},
    ]
    result = AUGMENTATION.apply(images, parameters(*rows))
    for image, changed in enumerate([False, True, False, True]):
        assert torch.equal(result[image], images[image]) is not changed
    half = images.half()
    assert torch.equal(AUGMENTATION.apply(half, parameters(*rows))[0], half[0])


def test_an_image_does_not_depend_on_its_batch() -> None:
    images = random_images(4)
    drawn = AUGMENTATION.draw([keyed_rng(5, "augmentation", i) for i in range(4)])
    result = AUGMENTATION.apply(images, drawn)
    for i in range(4):
        alone = AUGMENTATION.draw([keyed_rng(5, "augmentation", i)])
        assert torch.equal(alone, drawn[i : i + 1])
        assert torch.equal(AUGMENTATION.apply(images[i : i + 1], alone)[0], result[i])


def test_draws_lie_in_their_ranges() -> None:
    drawn = AUGMENTATION.draw([keyed_rng(0, "augmentation", i) for i in range(4000)])
    assert drawn.dtype == torch.float32
    assert drawn[:, 0].mean() == pytest.approx(0.8, abs=0.03)
    assert drawn[:, 5].mean() == pytest.approx(0.5, abs=0.03)
    ranges = {1: (-0.2, 0.2), 2: (0.8, 1.2), 3: (0.8, 1.2), 4: (-0.2, 0.2), 6: (0.15, 1.15)}
    for column, (low, high) in ranges.items():
        values = drawn[:, column]
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high + 1e-6
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.03)
    always = StrongAugmentation(jitter_probability=1, blur_probability=0)
    columns = always.draw([keyed_rng(0, "augmentation", i) for i in range(50)])[:, [0, 5]]
    assert columns.unique(dim=0).tolist() == [[1, 0]]


def test_blur_keeps_constants_and_sums() -> None:
    constant = colours((0.2, 0.5, 0.7))
    result = AUGMENTATION.apply(constant, parameters({"blurred": 1, "sigma": 1.15}))
    torch.testing.assert_close(result, constant)
    impulse = torch.zeros(1, 3, 21, 23)
    impulse[:, 1, 10, 11] = 1
    result = AUGMENTATION.apply(impulse, parameters({"blurred": 1, "sigma": 1.15}))
    torch.testing.assert_close(result.sum((0, 2, 3)), torch.tensor([0.0, 1.0, 0.0]))
    # Symmetric, and of the variance that sigma says.
    torch.testing.assert_close(result, result.flip(2).roll(0, 2))
    offsets = torch.arange(23.0) - 11
    variance = (result[0, 1].sum(0) * offsets**2).sum()
    assert variance == pytest.approx(1.15**2, rel=1e-3)


def test_blur_agrees_with_a_direct_gaussian_for_each_sigma() -> None:
    images = random_images(2, 13, 17)
    sigmas = (0.4, 1.1)
    result = AUGMENTATION.apply(images, parameters(*({"blurred": 1, "sigma": s} for s in sigmas)))
    for image, sigma, out in zip(images.double().numpy(), sigmas, result, strict=True):
        padded = np.pad(image, ((0, 0), (5, 5), (5, 5)), mode="reflect")
        expected = np.zeros_like(image)
        total = 0.0
        for y in range(-5, 6):
            for x in range(-5, 6):
                weight = math.exp(-(y * y + x * x) / (2 * sigma**2))
                total += weight
                expected += weight * padded[:, 5 + y : 18 + y, 5 + x : 22 + x]
        torch.testing.assert_close(
            out.double(), torch.from_numpy(expected / total), atol=1e-6, rtol=0
        )


def test_autocast_does_not_reach_the_arithmetic() -> None:
    images = random_images()
    drawn = parameters({"jittered": 1, "hue": 0.1, "blurred": 1}, {"blurred": 1})
    expected = AUGMENTATION.apply(images, drawn)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(AUGMENTATION.apply(images, drawn), expected)


@pytest.mark.parametrize("settings", [{"jitter": 1.5}, {"min_sigma": 0}, {"max_sigma": 0.1}])
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        StrongAugmentation(**settings)
