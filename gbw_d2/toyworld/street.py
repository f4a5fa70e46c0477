"""Static objects: sky, ground, the two roadsides, trees, poles, lights and signs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gbw_d2.toyworld.canvas import Camera, Canvas, Segment, ellipse
from gbw_d2.toyworld.looks import Look

FAR = 130.0
NEAR = 1.5


@dataclass(frozen=True)
class Item:
    """One object to draw: its kind, its position (metres) and its direction (-1 or 1)."""

    kind: str
    x: float
    z: float
    flip: int = 1
    crowd: bool = False


@dataclass(frozen=True)
class Street:
    """A street's plan in metres: road edges, sidewalk width, depth range of a crossing road."""

    left: float
    right: float
    sidewalk: float
    crossing: tuple[float, float] | None


@dataclass(frozen=True)
class Stage:
    """The arguments shared by all drawing functions."""

    canvas: Canvas
    camera: Camera
    look: Look
    street: Street
    rng: np.random.Generator

    def color(self, material: str, spread: float = 1.0) -> np.ndarray:
        """Draws a random colour of a material."""
        return self.look.color(material, self.rng, spread)

    def upright(self, item: Item, squeeze: float = 1.0) -> Upright:
        """Returns the upright plane through an item, seen from the front."""
        return Upright(self.camera, item.x, item.z, item.flip * squeeze)


@dataclass(frozen=True)
class Upright:
    """An upright plane facing the camera; coordinates are metres right of and above its foot."""

    camera: Camera
    x: float
    z: float
    squeeze: float = 1.0

    def __call__(self, points: list[tuple[float, float]] | np.ndarray) -> np.ndarray:
        """Projects (N, 2) metres to canvas pixels."""
        local = np.asarray(points, dtype=float)
        scale = self.camera.scale(self.z)
        return np.stack(
            (
                self.camera.center + scale * (self.x + self.squeeze * local[:, 0]),
                self.camera.horizon + scale * (self.camera.height - local[:, 1]),
            ),
            axis=1,
        )

    def disc(self, center: tuple[float, float], radius: float) -> np.ndarray:
        """Returns a circle of a radius in metres as a polygon in pixels."""
        scale = self.camera.scale(self.z)
        return ellipse(
            self([center])[0], (max(scale * radius * abs(self.squeeze), 0.7), scale * radius)
        )

    def bar(self, start: tuple[float, float], end: tuple[float, float], width: float) -> np.ndarray:
        """Returns a bar of a width in metres as a polygon in pixels."""
        a, b = self([start, end])
        along = b - a
        thickness = max(width * self.camera.scale(self.z), 1.2)
        normal = (
            np.array((-along[1], along[0])) / max(float(np.hypot(*along)), 1e-6) * thickness / 2
        )
        return np.stack((a + normal, b + normal, b - normal, a - normal))


def box(x0: float, x1: float, y0: float, y1: float) -> list[tuple[float, float]]:
    """Returns the corners of a rectangle."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def draw_sky(stage: Stage) -> None:
    """Paints a vertical gradient and, at the end of the street, a low skyline."""
    canvas, rows = stage.canvas, stage.canvas.color.shape[0]
    top, low = stage.color("sky"), stage.color("haze")
    ramp = np.clip(np.arange(rows) / max(stage.camera.horizon, 1.0), 0.0, 1.0)[:, None]
    canvas.color[:] = (top + (low - top) * ramp)[:, None].astype(np.uint8)
    canvas.segments[:] = canvas.add(Segment("sky", 300.0))
    scale, x = stage.camera.scale(FAR), -0.55 * FAR
    while x < 0.55 * FAR:
        width = stage.rng.uniform(6.0, 18.0)
        green = stage.rng.random() < 0.45
        height = stage.rng.uniform(3.0, 8.0) if green else stage.rng.uniform(6.0, 17.0)
        segment = canvas.add(Segment("vegetation" if green else "building", FAR))
        left, foot = stage.camera.center + scale * x, stage.camera.horizon + 0.5 * scale
        shape = box(left, left + scale * width, foot - scale * height, foot)
        canvas.polygon(np.array(shape), stage.color("vegetation" if green else "building"), segment)
        x += width * stage.rng.uniform(0.6, 1.0)


def _ground(stage: Stage, x0: float, x1: float, z0: float, z1: float) -> np.ndarray:
    return stage.camera.project([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)])


def draw_ground(stage: Stage) -> None:
    """Paints sidewalks, road, crossing road, kerbs, paving joints and paint."""
    canvas, street = stage.canvas, stage.street
    pavement = canvas.add(Segment("sidewalk", 0.0))
    color = stage.color("sidewalk")
    canvas.polygon(_ground(stage, -400, 400, NEAR, FAR), color, pavement)
    joints = [_ground(stage, -40, 40, z, z + 0.12) for z in np.arange(4.0, 26.0, 1.6)]
    canvas.polygons(joints, color * 0.88)
    asphalt, road = stage.color("road"), canvas.add(Segment("road", 0.0))
    canvas.polygon(_ground(stage, street.left, street.right, NEAR, FAR), asphalt, road)
    kerb = stage.color("kerb")
    for edge, side in ((street.left, -1), (street.right, 1)):
        canvas.polygon(_ground(stage, edge, edge + 0.22 * side, NEAR, FAR), kerb)
    if street.crossing:
        z0, z1 = street.crossing
        canvas.polygon(_ground(stage, -200, 200, z0, z1), asphalt, road)
        stripes = np.arange(street.left + 0.6, street.right - 0.8, 1.1)
        _paint(stage, [_ground(stage, x, x + 0.5, z0 - 3.5, z0 - 0.8) for x in stripes])
    middle = 0.5 * (street.left + street.right)
    offset = stage.rng.uniform(0.0, 6.0)
    _paint(
        stage,
        [
            _ground(stage, middle - 0.09, middle + 0.09, z, z + 3.0)
            for z in offset + np.arange(2.0, 80.0, 7.0)
        ],
    )
    _paint(stage, [_ground(stage, street.right - 0.5, street.right - 0.36, NEAR, FAR)])
    if stage.rng.random() < 0.25:
        z = stage.rng.uniform(8.0, 16.0)
        bay = _ground(stage, street.left, street.left + 2.0, z, z + 6.0)
        canvas.polygon(bay, asphalt * 0.85, canvas.add(Segment("parking", 0.0)))
    if stage.rng.random() < 0.5:
        x, z = stage.rng.uniform(street.left, street.right - 2.0), stage.rng.uniform(5.0, 20.0)
        canvas.shade(_ground(stage, x, x + 1.8, z, z + stage.rng.uniform(1, 5)), 0.82)


def _paint(stage: Stage, shapes: list[np.ndarray]) -> None:
    segment = stage.canvas.add(Segment("lane marking", 0.0))
    stage.canvas.polygons(shapes, stage.color("marking"), segment)


def draw_roadside(stage: Stage, kind: str, x: float, z0: float, z1: float) -> None:
    """Draws one stretch of a roadside at abscissa x, from depth z0 to z1, with its background."""
    ROADSIDE[kind](stage, x, z0, z1)


def _facade(stage: Stage, x: float, z0: float, z1: float, y0: float, y1: float) -> np.ndarray:
    return stage.camera.project([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)])


def _building(stage: Stage, x: float, z0: float, z1: float) -> None:
    rng, canvas = stage.rng, stage.canvas
    height = stage.look.layout["building_height"] * rng.uniform(0.7, 1.5)
    color, side = stage.color("building"), np.sign(x)
    segment = canvas.add(Segment("building", 0.5 * (z0 + z1)))
    front = stage.camera.project(
        [(x, 0, z0), (x + 14 * side, 0, z0), (x + 14 * side, height, z0), (x, height, z0)]
    )
    canvas.polygon(front, color * 0.72, segment)
    canvas.polygon(_facade(stage, x, z0, z1, 0, height), color, segment)
    canvas.polygon(_facade(stage, x, z0, z1, height - 0.7, height), stage.color("roof"))
    storey, bay = rng.uniform(2.8, 3.6), rng.uniform(1.9, 3.0)
    window = stage.color("window")
    panes = [
        _facade(stage, x, z, z + 0.5 * bay, y, y + 0.5 * storey)
        for y in np.arange(3.9, height - 2.0, storey)
        for z in np.arange(z0 + 0.4 * bay, z1 - 0.6 * bay, bay)
    ]
    canvas.polygons(panes, window)
    canvas.polygons(
        [
            np.concatenate((p[:1], p[1:2], p[1:2] * 0.8 + p[2:3] * 0.2, p[:1] * 0.8 + p[3:] * 0.2))
            for p in panes
        ],
        color * 1.15,
    )
    shop = stage.color("shop")
    openings = np.arange(z0 + 0.5, z1 - 2.0, 3.2)
    canvas.polygons(
        [_facade(stage, x, z, z + 2.2, 0.1 if i % 3 else 0.7, 2.7) for i, z in enumerate(openings)],
        shop,
    )


def _behind(stage: Stage, x: float, z0: float, z1: float) -> None:
    """Draws what is visible above a low roadside: a garden, a house farther back, or the sky."""
    side = np.sign(x)
    choice = stage.rng.random()
    if choice < 0.45:
        _mass_of_leaves(stage, x + 3.0 * side, z0, z1, stage.rng.uniform(3.0, 8.0))
    elif choice < 0.8:
        _building(stage, x + 9.0 * side, z0, z1)


def _mass_of_leaves(stage: Stage, x: float, z0: float, z1: float, height: float) -> None:
    canvas, rng = stage.canvas, stage.rng
    color, segment = stage.color("vegetation"), canvas.add(Segment("vegetation", 0.5 * (z0 + z1)))
    canvas.polygon(_facade(stage, x, z0, z1, 0, height * 0.8), color * 0.8, segment)
    side = np.sign(x)
    end = [
        (x, 0, z0),
        (x + 8 * side, 0, z0),
        (x + 8 * side, height * 0.8, z0),
        (x, height * 0.8, z0),
    ]
    canvas.polygon(stage.camera.project(end), color * 0.7, segment)
    for z in np.linspace(z1, z0, 9):
        y = height * rng.uniform(0.55, 0.85)
        center = stage.camera.project([(x, y, z)])[0]
        radius = stage.camera.scale(z) * height * 0.28
        canvas.disc(
            center, (radius, radius), np.clip(color * rng.uniform(0.8, 1.2), 0, 255), segment
        )


def _wall(stage: Stage, x: float, z0: float, z1: float) -> None:
    _behind(stage, x, z0, z1)
    height = stage.rng.uniform(1.9, 3.2)
    color, segment = stage.color("wall"), stage.canvas.add(Segment("wall", 0.5 * (z0 + z1)))
    stage.canvas.polygon(_facade(stage, x, z0, z1, 0, height), color, segment)
    courses = [_facade(stage, x, z0, z1, y, y + 0.08) for y in np.arange(0.4, height - 0.2, 0.5)]
    stage.canvas.polygons(courses, color * 0.8)
    stage.canvas.polygon(
        _facade(stage, x, z0, z1, height - 0.22, height), np.minimum(color * 1.2, 255)
    )


def _fence(stage: Stage, x: float, z0: float, z1: float) -> None:
    _behind(stage, x, z0, z1)
    height = stage.rng.uniform(1.5, 2.3)
    color, segment = stage.color("fence"), stage.canvas.add(Segment("fence", 0.5 * (z0 + z1)))
    # The gaps between the bars have the background's colour and the fence's label.
    stage.canvas.polygon(_facade(stage, x, z0, z1, 0, height), None, segment)
    bars = [_facade(stage, x, z, z + 0.16, 0, height) for z in np.arange(z0, z1, 0.55)]
    rails = [_facade(stage, x, z0, z1, y, y + 0.14) for y in (0.25, height - 0.14)]
    for shapes in (bars, rails):
        stage.canvas.polygons(shapes, color)


def _hedge(stage: Stage, x: float, z0: float, z1: float) -> None:
    _mass_of_leaves(stage, x, z0, z1, stage.rng.uniform(2.0, 9.0))


def _terrain(stage: Stage, x: float, z0: float, z1: float) -> None:
    side = np.sign(x)
    _behind(stage, x + 9.0 * side, z0, z1)
    strip = _ground(stage, x - 2.6 * side, x + 12.0 * side, z0, z1)
    stage.canvas.polygon(
        strip, stage.color("terrain"), stage.canvas.add(Segment("terrain", 0.5 * (z0 + z1)))
    )


def _gap(stage: Stage, x: float, z0: float, z1: float) -> None:
    """Draws no roadside."""


ROADSIDE = {
    "building": _building,
    "wall": _wall,
    "fence": _fence,
    "hedge": _hedge,
    "terrain": _terrain,
    "gap": _gap,
}


def draw_tree(stage: Stage, item: Item) -> None:
    """Draws trunk and crown; both are vegetation."""
    rng, plane = stage.rng, stage.upright(item)
    segment = stage.canvas.add(Segment("vegetation", item.z))
    trunk, radius = rng.uniform(2.2, 3.4), rng.uniform(1.2, 2.2)
    stage.canvas.polygon(
        plane.bar((0, 0), (0, trunk + radius), rng.uniform(0.25, 0.4)),
        stage.color("trunk"),
        segment,
    )
    color = stage.color("vegetation")
    for shade in (0.75, 0.75, 0.9, 1.0, 1.0, 1.15, 1.25):
        x, y = (
            rng.normal(0.0, 0.45 * radius),
            trunk + radius + radius * (0.45 * rng.normal() + shade - 1.0),
        )
        crown = plane.disc((x, y), radius * rng.uniform(0.5, 0.8))
        stage.canvas.polygon(crown, np.minimum(color * shade, 255), segment)


def _mast(stage: Stage, item: Item, height: float, width: float) -> np.ndarray:
    color = stage.color("pole")
    segment = stage.canvas.add(Segment("pole", item.z))
    stage.canvas.polygon(stage.upright(item).bar((0, 0), (0, height), width), color, segment)
    return color


def draw_pole(stage: Stage, item: Item) -> None:
    """Draws a street lamp or a bare pole."""
    height = stage.rng.uniform(4.5, 8.0)
    color = _mast(stage, item, height, stage.rng.uniform(0.16, 0.26))
    if stage.rng.random() < 0.5:
        plane, segment = stage.upright(item), len(stage.canvas.table) - 1
        stage.canvas.polygon(plane.bar((0, height), (1.6, height + 0.3), 0.12), color, segment)
        stage.canvas.polygon(
            plane.bar((1.3, height + 0.25), (2.0, height + 0.3), 0.22), color * 1.1, segment
        )


def draw_light(stage: Stage, item: Item) -> None:
    """Draws a traffic light: a dark box on a pole, one of three lamps lit."""
    rng, canvas, plane = stage.rng, stage.canvas, stage.upright(item)
    foot = rng.uniform(2.4, 3.4)
    _mast(stage, item, foot + 0.4, 0.16)
    segment = canvas.add(Segment("traffic light", item.z))
    canvas.polygon(plane(box(-0.28, 0.28, foot, foot + 1.35)), stage.color("light"), segment)
    lit = rng.integers(3)
    for i, lamp in enumerate(((40, 220, 90), (250, 190, 40), (250, 40, 30))):
        color = np.array(lamp, float) * (1.0 if i == lit else 0.28)
        canvas.polygon(plane.disc((0.0, foot + 0.27 + 0.41 * i), 0.17 if i != lit else 0.22), color)


def _plate(kind: int, plane: Upright, y: float, size: float) -> np.ndarray:
    if kind == 0:
        return plane.disc((0, y), size)
    if kind == 1:
        return plane([(-1.15 * size, y - size), (1.15 * size, y - size), (0, y + 1.15 * size)])
    return plane(box(-size, size, y - size, y + size))


def draw_sign(stage: Stage, item: Item) -> None:
    """Draws a traffic sign: a round, triangular or square plate with a symbol, on a pole."""
    rng, canvas, plane = stage.rng, stage.canvas, stage.upright(item)
    y, size, shape = rng.uniform(2.3, 3.0), rng.uniform(0.36, 0.55), int(rng.integers(3))
    _mast(stage, item, y, 0.12)
    segment = canvas.add(Segment("traffic sign", item.z))
    rim = stage.color(
        ("sign_red", "sign_red", "sign_blue")[shape] if rng.random() < 0.75 else "sign_yellow"
    )
    canvas.polygon(_plate(shape, plane, y, size), rim, segment)
    canvas.polygon(
        _plate(shape, plane, y - 0.06 * (shape == 1), 0.6 * size), stage.color("sign_back")
    )
    canvas.polygon(
        plane(box(-0.12 * size, 0.12 * size, y - 0.35 * size, y + 0.35 * size)), rim * 0.4
    )


def draw_litter(stage: Stage, item: Item) -> None:
    """Draws a bin or a box: static void."""
    plane, segment = stage.upright(item), stage.canvas.add(Segment("static", item.z))
    color = stage.color("litter")
    stage.canvas.polygon(plane(box(-0.35, 0.35, 0, 1.1)), color, segment)
    stage.canvas.polygon(plane(box(-0.4, 0.4, 1.1, 1.25)), color * 0.7, segment)


def draw_road_work(stage: Stage, item: Item) -> None:
    """Draws a traffic cone: void."""
    plane, segment = stage.upright(item), stage.canvas.add(Segment("road work", item.z))
    stage.canvas.polygon(
        plane([(-0.3, 0), (0.3, 0), (0.06, 0.9), (-0.06, 0.9)]), stage.color("roadwork"), segment
    )
    stage.canvas.polygon(
        plane([(-0.2, 0.35), (0.2, 0.35), (0.14, 0.55), (-0.14, 0.55)]), stage.color("sign_back")
    )


DRAW_STREET = {
    "tree": draw_tree,
    "pole": draw_pole,
    "light": draw_light,
    "sign": draw_sign,
    "litter": draw_litter,
    "road_work": draw_road_work,
}
