"""Makes a flat drawing look like a photograph: texture, light, weather, blur and noise."""

from __future__ import annotations

import cv2
import numpy as np

from gbw_d2.cityscapes_classes import CLASSES
from gbw_d2.toyworld.looks import Look

_TRAIN_ID = {c.name: c.train_id for c in CLASSES}


def _grain(
    shape: tuple[int, int], width: float, height: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns smooth noise of unit size whose grains measure width x height pixels."""
    rows, columns = shape
    coarse = (max(int(rows / max(height, 1.0)), 2), max(int(columns / max(width, 1.0)), 2))
    field = rng.standard_normal(coarse, dtype=np.float32)
    return cv2.resize(field, (columns, rows), interpolation=cv2.INTER_LINEAR)


def add_texture(
    image: np.ndarray, classes: np.ndarray, look: Look, rng: np.random.Generator
) -> None:
    """Adds each class's texture in place.

    Args:
        image: (H, W, 3) float32 RGB, 0..255.
        classes: (H, W) uint8 train ids.
        look: the domain's numbers.
        rng: source of randomness.
    """
    rows = classes.shape[0]
    total = np.zeros(classes.shape, dtype=np.float32)
    for name, (amplitude, width, height) in look.texture.items():
        field = _grain(classes.shape, width * rows, height * rows, rng)
        total += np.where(
            classes == _TRAIN_ID[name], np.float32(amplitude) * field, np.float32(0.0)
        )
    image += total[..., None]


def add_light(
    image: np.ndarray, depth: np.ndarray, look: Look, rng: np.random.Generator
) -> np.ndarray:
    """Applies fog by depth, saturation, contrast, exposure, colour cast, vignette and rain.

    Args:
        image: (H, W, 3) float32 RGB, 0..255.
        depth: (H, W) float32 metres.
        look: the domain's numbers.
        rng: source of randomness.

    Returns:
        (H, W, 3) float32 RGB, not clipped.
    """
    light = look.light
    density = light["fog_density"] * rng.gamma(2.0, 0.5)
    clear = np.exp(-density * depth).astype(np.float32)[..., None]
    haze = look.color("haze", rng).astype(np.float32)
    image = image * clear + haze * (1 - clear)
    gray = image @ np.array((0.299, 0.587, 0.114), dtype=np.float32)
    image = gray[..., None] + np.float32(light["saturation"]) * (image - gray[..., None])
    image = 118 + np.float32(light["contrast"]) * (image - 118)
    cast = np.array([light["cast_red"], light["cast_green"], light["cast_blue"]])
    cast = cast + light["cast_spread"] * rng.normal(size=3)
    exposure = max(light["exposure"] + light["exposure_spread"] * rng.normal(), 0.4)
    image = image * (exposure * cast).astype(np.float32)
    rows, columns = depth.shape
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None]
    image *= (1.0 - light["vignette"] * 0.5 * (x**2 + y**2)).astype(np.float32)[..., None]
    if rng.random() < light["rain"]:
        streaks = cv2.blur(
            (rng.random(depth.shape, dtype=np.float32) > 0.992).astype(np.float32), (1, 7)
        )
        image += 160 * streaks[..., None]
    return image


def add_sensor(image: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Blurs the picture and adds luminance and chroma noise.

    Args:
        image: (H, W, 3) float32 RGB.
        look: the domain's numbers.
        rng: source of randomness.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    sensor, rows = look.sensor, image.shape[0]
    # Blur is given for 128 rows.
    sigma = (sensor["blur"] + sensor["blur_spread"] * rng.uniform(-1, 1)) * rows / 128
    if sigma > 0.05:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    noise = rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None] * np.float32(
        sensor["noise"]
    )
    chroma = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(sensor["chroma_noise"])
    return np.clip(np.round(image + noise + chroma), 0, 255).astype(np.uint8)
