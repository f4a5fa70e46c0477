"""All numbers in which the two domains differ; the size of the domain gap is set here.

Each entry is a pair (source, target); a knob of :class:`DomainGap` moves the target from the first
value to the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gbw_d2.toyworld.settings import ToyWorldSettings

# Expected number per image; for roadsides, the relative share of the street's length.
CLASS_PRIOR: dict[str, tuple[float, float]] = {
    "car": (3.0, 4.2),
    "parked_share": (0.3, 0.6),
    "bus": (0.22, 0.2),
    "truck": (0.0, 0.17),
    "train": (0.0, 0.20),
    "person": (4.0, 3.0),
    "group": (0.35, 0.3),
    "bicycle": (0.5, 0.6),
    "motorcycle": (0.5, 0.24),
    "ridden_bicycle": (0.4, 0.3),
    "ridden_motorcycle": (0.35, 0.18),
    "pole": (2.6, 1.8),
    "light": (1.2, 1.1),
    "sign": (1.6, 1.9),
    "tree": (2.0, 4.2),
    "litter": (0.7, 0.7),
    "roadside_building": (0.72, 0.60),
    "roadside_wall": (0.09, 0.09),
    "roadside_fence": (0.09, 0.18),
    "roadside_hedge": (0.10, 0.14),
    "roadside_terrain": (0.0, 0.36),
}

# Lengths in metres; focal and horizon in units of the image height.
LAYOUT: dict[str, tuple[float, float]] = {
    "focal": (1.45, 2.0),
    "focal_spread": (0.25, 0.15),
    "horizon": (0.36, 0.42),
    "horizon_spread": (0.06, 0.025),
    "camera_height": (2.3, 1.35),
    "camera_height_spread": (0.6, 0.1),
    "center_spread": (0.10, 0.08),
    "road_width": (9.5, 8.5),
    "sidewalk_width": (4.5, 5.0),
    "building_height": (9.0, 16.0),
    "nearest": (7.0, 7.0),
    "farthest": (42.0, 42.0),
    "hood": (0.0, 0.055),
    "border": (0.0, 0.35),
    "crossing": (0.45, 0.35),
}

LIGHT: dict[str, tuple[float, float]] = {
    "exposure": (1.05, 0.98),
    "exposure_spread": (0.06, 0.06),
    "contrast": (1.1, 1.05),
    "saturation": (1.15, 1.05),
    "cast_red": (1.02, 0.98),
    "cast_green": (1.0, 1.02),
    "cast_blue": (0.98, 0.98),
    "cast_spread": (0.01, 0.015),
    "fog_density": (0.0005, 0.003),
    "shadow": (0.5, 0.3),
    "vignette": (0.0, 0.2),
    "rain": (0.0, 0.12),
}

SENSOR: dict[str, tuple[float, float]] = {
    "blur": (0.0, 0.34),
    "blur_spread": (0.0, 0.12),
    "noise": (1.5, 2.4),
    "chroma_noise": (0.5, 1.1),
}

Color = tuple[int, int, int]

# The colours of each material, RGB 0..255, with equally many in source and target.
PALETTE: dict[str, tuple[tuple[Color, ...], tuple[Color, ...]]] = {
    "road": (((92, 84, 98), (80, 78, 88)), ((104, 106, 104), (92, 94, 96))),
    "marking": (((240, 240, 235),), ((190, 192, 180),)),
    "sidewalk": (((186, 148, 132), (172, 140, 140)), ((168, 146, 134), (156, 140, 136))),
    "kerb": (((215, 205, 190),), ((160, 160, 156),)),
    "building": (
        ((204, 150, 96), (170, 92, 74), (212, 190, 140), (150, 132, 170), (196, 170, 160)),
        ((176, 160, 132), (150, 142, 136), (196, 184, 158), (128, 116, 104), (164, 150, 150)),
    ),
    "window": (((70, 96, 150), (96, 120, 160)), ((62, 66, 70), (82, 88, 90))),
    "roof": (((120, 60, 50),), ((80, 70, 68),)),
    "shop": (((60, 110, 110), (150, 60, 60)), ((74, 60, 56), (70, 80, 90))),
    "wall": (((176, 88, 66), (160, 100, 80)), ((168, 98, 74), (154, 106, 82))),
    "fence": (((52, 76, 132), (60, 90, 70)), ((70, 112, 92), (74, 96, 116))),
    "pole": (((58, 60, 72), (84, 84, 90)), ((74, 88, 84), (60, 66, 70))),
    "light": (((36, 38, 40), (52, 50, 34)), ((34, 40, 38), (28, 28, 30))),
    "sign_red": (((222, 30, 36),), ((196, 50, 48),)),
    "sign_blue": (((28, 70, 200),), ((40, 80, 170),)),
    "sign_yellow": (((244, 206, 30),), ((226, 184, 60),)),
    "sign_back": (((232, 232, 228),), ((186, 188, 184),)),
    "vegetation": (
        ((66, 138, 44), (88, 152, 40), (50, 116, 56)),
        ((72, 96, 44), (92, 110, 50), (56, 82, 48)),
    ),
    "trunk": (((100, 70, 46),), ((74, 66, 56),)),
    "terrain": (((124, 160, 60),), ((128, 124, 72),)),
    "sky": (((104, 160, 236), (130, 180, 240)), ((176, 200, 222), (196, 210, 222))),
    "haze": (((190, 214, 240),), ((226, 228, 226),)),
    "skin": (((230, 180, 146), (140, 96, 70)), ((206, 164, 140), (120, 88, 70))),
    "cloth": (
        (
            (214, 50, 60),
            (40, 90, 190),
            (90, 60, 150),
            (60, 150, 120),
            (230, 230, 230),
            (160, 60, 170),
        ),
        (
            (146, 50, 56),
            (46, 66, 130),
            (100, 72, 110),
            (54, 102, 88),
            (184, 182, 182),
            (122, 54, 112),
        ),
    ),
    "trousers": (((50, 60, 110), (110, 90, 70)), ((44, 48, 76), (74, 62, 58))),
    "helmet": (((250, 240, 60), (240, 90, 30)), ((220, 206, 60), (216, 96, 50))),
    "vest": (((250, 130, 30), (180, 240, 40)), ((214, 112, 44), (160, 200, 70))),
    "car": (
        (
            (206, 30, 34),
            (30, 80, 200),
            (240, 240, 240),
            (240, 190, 30),
            (40, 160, 90),
            (40, 40, 46),
        ),
        ((70, 74, 84), (40, 46, 66), (200, 204, 206), (136, 142, 148), (110, 34, 40), (30, 32, 36)),
    ),
    "glass": (((120, 160, 190),), ((60, 70, 76),)),
    "tyre": (((26, 26, 28),), ((34, 34, 34),)),
    "tail_light": (((240, 30, 20),), ((190, 40, 36),)),
    "head_light": (((255, 250, 220),), ((230, 230, 214),)),
    "truck": (((230, 230, 225), (40, 110, 190)), ((196, 196, 186), (70, 92, 130))),
    "bus": (((248, 170, 30), (220, 60, 40)), ((222, 180, 70), (176, 56, 46))),
    "train": (((200, 60, 60), (90, 130, 180)), ((176, 44, 40), (196, 170, 70))),
    "bicycle": (((220, 40, 120), (30, 150, 200)), ((36, 108, 128), (150, 46, 80))),
    "motorcycle": (((200, 20, 30), (30, 30, 120)), ((184, 36, 32), (40, 48, 132))),
    "chrome": (((200, 204, 210),), ((140, 144, 146),)),
    "litter": (((60, 130, 70), (150, 110, 60)), ((80, 86, 84), (104, 92, 74))),
    "roadwork": (((250, 110, 20),), ((206, 96, 58),)),
    "hood": (((40, 40, 44),), ((36, 38, 42),)),
}

# Texture: amplitude (grey levels), grain width and height (fractions of the image height).
TEXTURE: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "road": ((5, 0.012, 0.012), (8, 0.06, 0.016)),
    "sidewalk": ((9, 0.03, 0.012), (6, 0.012, 0.012)),
    "building": ((6, 0.09, 0.05), (9, 0.03, 0.03)),
    "wall": ((16, 0.045, 0.014), (20, 0.03, 0.03)),
    "fence": ((4, 0.01, 0.01), (6, 0.014, 0.014)),
    "vegetation": ((18, 0.03, 0.03), (20, 0.016, 0.016)),
    "terrain": ((10, 0.012, 0.03), (14, 0.012, 0.024)),
    "sky": ((6, 0.4, 0.12), (7, 0.6, 0.2)),
}
COLOR_SPREAD = (7.0, 8.0)


@dataclass(frozen=True)
class Look:
    """One domain's numbers: the tables above with one value per name, after applying the knobs."""

    prior: dict[str, float]
    layout: dict[str, float]
    light: dict[str, float]
    sensor: dict[str, float]
    palette: dict[str, np.ndarray]
    texture: dict[str, np.ndarray]
    color_spread: float

    def color(self, material: str, rng: np.random.Generator, spread: float = 1.0) -> np.ndarray:
        """Draws one colour of a material, (3,) float RGB 0..255, jittered."""
        colors = self.palette[material]
        base = colors[rng.integers(len(colors))]
        amount = self.color_spread * spread
        return np.clip(base + amount * (0.8 * rng.normal() + 0.5 * rng.normal(size=3)), 0.0, 255.0)


def _mix(
    table: dict[str, tuple[float, float]], knob: float, factors: dict[str, float]
) -> dict[str, float]:
    mixed = {name: (1.0 - knob) * a + knob * b for name, (a, b) in table.items()}
    return {name: factors.get(name, 1.0) * value for name, value in mixed.items()}


def _check_names(factors: dict[str, float]) -> None:
    known = {*CLASS_PRIOR, *LAYOUT, *LIGHT, *SENSOR}
    if unknown := sorted(set(factors) - known):
        raise ValueError(
            f"toy world: target_factors names {unknown}, which looks.py does not have; known: "
            f"{sorted(known)}"
        )


def look_of(settings: ToyWorldSettings, domain: str) -> Look:
    """Returns the numbers of a domain; those of the target depend on the settings' gap.

    Args:
        settings: the world.
        domain: "source" or "target".

    Raises:
        ValueError: a factor of the settings has an unknown name.
    """
    gap, scale = settings.gap, float(domain == "target")
    factors = dict(settings.target_factors) if domain == "target" else {}
    _check_names(factors)
    knob = scale * gap.palette_and_texture
    arrays = {
        name: {
            key: (1.0 - knob) * np.array(a, float) + knob * np.array(b, float)
            for key, (a, b) in table
        }
        for name, table in (("palette", PALETTE.items()), ("texture", TEXTURE.items()))
    }
    return Look(
        prior=_mix(CLASS_PRIOR, scale * gap.class_prior, factors),
        layout=_mix(LAYOUT, scale * gap.layout_and_camera, factors),
        light=_mix(LIGHT, scale * gap.lighting_and_weather, factors),
        sensor=_mix(SENSOR, scale * gap.blur_and_noise, factors),
        palette=arrays["palette"],
        texture=arrays["texture"],
        color_spread=(1.0 - knob) * COLOR_SPREAD[0] + knob * COLOR_SPREAD[1],
    )
