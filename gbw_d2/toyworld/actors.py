"""Moving objects: people, two-wheelers with and without riders, and larger vehicles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gbw_d2.toyworld.canvas import Segment, ellipse
from gbw_d2.toyworld.street import Item, Stage, Upright, box


def _thing(stage: Stage, item: Item, label: str) -> int:
    return stage.canvas.add(Segment(label, item.z, is_instance=not item.crowd, is_crowd=item.crowd))


def _cast_shadow(stage: Stage, item: Item, width: float) -> None:
    scale = stage.camera.scale(item.z)
    foot = stage.upright(item)([(0.0, 0.0)])[0]
    stage.canvas.shade(
        ellipse(foot, (scale * width, scale * 0.18)), 1.0 - stage.look.light["shadow"]
    )


def draw_person(stage: Stage, item: Item) -> None:
    """Draws a walking person: two legs, torso, arms, head."""
    rng = stage.rng
    tall = rng.uniform(0.88, 1.08) * (0.65 if rng.random() < 0.08 else 1.0)
    plane = Upright(stage.camera, item.x, item.z, item.flip)
    canvas, segment = stage.canvas, _thing(stage, item, "person")
    _cast_shadow(stage, item, 0.45)
    trousers, cloth, skin = (stage.color(m) for m in ("trousers", "cloth", "skin"))
    stride = rng.uniform(0.05, 0.28)
    for foot, shade in ((-stride, 0.8), (stride, 1.0)):
        leg = plane.bar((0.0, 0.92 * tall), (foot, 0.0), 0.2)
        canvas.polygon(leg, trousers * shade, segment)
    torso = [(-0.2, 0.85), (0.2, 0.85), (0.26, 1.42), (0.12, 1.52), (-0.12, 1.52), (-0.26, 1.42)]
    canvas.polygon(plane(np.array(torso) * (1.0, tall)), cloth, segment)
    for hand in (-0.34 - 0.4 * stride, 0.34 + 0.4 * stride):
        canvas.polygon(
            plane.bar((0.7 * hand, 1.4 * tall), (hand, 0.88 * tall), 0.12), cloth * 0.85, segment
        )
    canvas.polygon(plane.disc((0.0, 1.66 * tall), 0.15), skin, segment)
    canvas.polygon(plane.disc((0.0, 1.72 * tall), 0.11), trousers * 0.5, segment)


def draw_group(stage: Stage, item: Item) -> None:
    """Draws several people close together, as one crowd region if the item is a crowd."""
    count = int(stage.rng.integers(4, 8))
    for i in range(count):
        x = item.x + (i - 0.5 * count) * 0.55 + stage.rng.uniform(-0.1, 0.1)
        draw_person(stage, Item("person", x, item.z - 0.02 * i, item.flip, item.crowd))


def _wheels(
    stage: Stage, plane: Upright, radius: float, base: float, width: float, segment: int
) -> None:
    for x in (-base / 2, base / 2):
        # Pixels between the spokes get the vehicle's label, as in Cityscapes.
        stage.canvas.polygon(plane.disc((x, radius), radius), None, segment)
        rim, hole = (
            plane.disc((x, radius), radius),
            plane.disc((x, radius), max(radius - width, 0.02)),
        )
        stage.canvas.polygons([rim, hole], stage.color("tyre"))


def _bicycle(stage: Stage, item: Item, plane: Upright) -> None:
    segment = _thing(stage, item, "bicycle")
    _wheels(stage, plane, 0.36, 1.1, 0.08, segment)
    color = stage.color("bicycle")
    saddle, crank, head = (-0.2, 0.92), (-0.08, 0.34), (0.42, 0.86)
    stage.canvas.polygon(plane([saddle, crank, head]), None, segment)
    tubes = (
        (saddle, crank),
        (crank, head),
        (saddle, head),
        ((-0.55, 0.36), crank),
        ((-0.55, 0.36), (-0.2, 0.7)),
        (head, (0.55, 0.36)),
    )
    for start, end in tubes:
        stage.canvas.polygon(plane.bar(start, end, 0.085), color, segment)
    stage.canvas.polygon(plane.bar((0.42, 0.86), (0.34, 1.08), 0.07), color * 0.6, segment)
    stage.canvas.polygon(plane.bar((-0.32, 0.95), (-0.08, 0.95), 0.1), color * 0.4, segment)


def _motorcycle(stage: Stage, item: Item, plane: Upright) -> None:
    segment = _thing(stage, item, "motorcycle")
    _wheels(stage, plane, 0.34, 1.4, 0.16, segment)
    color = stage.color("motorcycle")
    body = [
        (-0.75, 0.55),
        (-0.1, 0.3),
        (0.35, 0.35),
        (0.6, 0.8),
        (0.5, 1.05),
        (0.2, 0.95),
        (-0.25, 0.78),
        (-0.95, 0.9),
    ]
    stage.canvas.polygon(plane(body), color, segment)
    stage.canvas.polygon(
        plane([(-0.2, 0.25), (0.3, 0.25), (0.25, 0.55), (-0.15, 0.55)]),
        stage.color("chrome"),
        segment,
    )
    stage.canvas.polygon(plane.bar((0.5, 1.0), (0.72, 0.34), 0.1), stage.color("chrome"), segment)
    stage.canvas.polygon(plane.bar((0.5, 1.0), (0.36, 1.2), 0.09), color * 0.5, segment)
    stage.canvas.polygon(plane.disc((0.62, 0.9), 0.11), stage.color("head_light"), segment)


def _rider(stage: Stage, item: Item, plane: Upright, lift: float) -> None:
    segment, canvas = _thing(stage, item, "rider"), stage.canvas
    vest = stage.color("vest")
    trousers = 0.6 * vest
    hip, shoulder, hand = (-0.18, 0.9 + lift), (0.1, 1.42 + lift), (0.38, 1.08 + lift)
    knee, foot = (0.2, 0.68 + lift), (0.0, 0.3 + lift)
    canvas.polygon(plane.bar(hip, knee, 0.22), trousers, segment)
    canvas.polygon(plane.bar(knee, foot, 0.17), trousers * 0.85, segment)
    canvas.polygon(plane.bar(hip, shoulder, 0.4), vest, segment)
    canvas.polygon(plane.bar(shoulder, hand, 0.15), vest * 0.8, segment)
    head = (0.2, 1.62 + lift)
    canvas.polygon(plane.disc(head, 0.16), stage.color("skin"), segment)
    canvas.polygon(
        plane.disc((head[0] - 0.02, head[1] + 0.05), 0.15), stage.color("helmet"), segment
    )


def _two_wheeler(stage: Stage, item: Item) -> Upright:
    _cast_shadow(stage, item, 0.9)
    return stage.upright(item, squeeze=stage.rng.uniform(0.6, 1.0))


def draw_bicycle(stage: Stage, item: Item) -> None:
    """Draws a parked bicycle."""
    _bicycle(stage, item, _two_wheeler(stage, item))


def draw_motorcycle(stage: Stage, item: Item) -> None:
    """Draws a parked motorcycle."""
    _motorcycle(stage, item, _two_wheeler(stage, item))


def draw_ridden_bicycle(stage: Stage, item: Item) -> None:
    """Draws a rider on a bicycle: two instances."""
    plane = _two_wheeler(stage, item)
    _bicycle(stage, item, plane)
    _rider(stage, item, plane, 0.0)


def draw_ridden_motorcycle(stage: Stage, item: Item) -> None:
    """Draws a rider on a motorcycle: two instances."""
    plane = _two_wheeler(stage, item)
    _motorcycle(stage, item, plane)
    _rider(stage, item, plane, -0.08)


@dataclass(frozen=True)
class Vehicle:
    """The dimensions of a four-wheeled or rail vehicle in metres.

    Args:
        label: class and material.
        width: width of the body.
        length: length of the body.
        floor: height of the body's lower edge.
        body: height of the body's upper edge.
        cabin: height of the roof; equal to ``body`` where there is no separate cabin.
        wheel: wheel radius.
        windows: (lower, upper) edge of the side windows, None for a closed body.
    """

    label: str
    width: float
    length: float
    floor: float
    body: float
    cabin: float
    wheel: float
    windows: tuple[float, float] | None


VEHICLES = {
    "car": Vehicle("car", 1.8, 4.2, 0.28, 0.86, 1.46, 0.32, (0.9, 1.34)),
    "bus": Vehicle("bus", 2.6, 11.0, 0.35, 3.1, 3.1, 0.48, (1.35, 2.5)),
    "truck": Vehicle("truck", 2.5, 7.5, 0.85, 3.5, 3.5, 0.5, None),
    "train": Vehicle("train", 2.7, 24.0, 0.4, 3.5, 3.5, 0.3, (1.5, 2.6)),
}


def _side(stage: Stage, x: float, points: list[tuple[float, float]]) -> np.ndarray:
    """Projects points (depth, height) of a plane along the street."""
    return stage.camera.project([(x, y, z) for z, y in points])


def draw_vehicle(stage: Stage, item: Item) -> None:
    """Draws a vehicle along the street from its near end, with the side that the camera sees."""
    v, canvas = VEHICLES[item.kind], stage.canvas
    segment, color = _thing(stage, item, v.label), stage.color(v.label)
    z0, z1, half = item.z, item.z + v.length, v.width / 2
    shadow = [
        (item.x - half - 0.2, 0, z0 - 0.3),
        (item.x + half + 0.2, 0, z0 - 0.3),
        (item.x + half, 0, z1),
        (item.x - half, 0, z1),
    ]
    canvas.shade(stage.camera.project(shadow), 1.0 - stage.look.light["shadow"])
    ends = [
        (x, y, z)
        for x in (item.x - half, item.x + half)
        for y in (v.floor, v.body)
        for z in (z0, z1)
    ]
    canvas.hull(stage.camera.project(ends), color * 0.8, segment)
    if v.cabin > v.body:
        _cabin(stage, item, v, color, segment)
    inner = item.x - np.sign(item.x) * half
    if abs(item.x) > half:
        _flank(stage, v, inner, z0, color, segment)
    _near_end(stage, item, v, color, segment)


def _cabin(stage: Stage, item: Item, v: Vehicle, color: np.ndarray, segment: int) -> None:
    low, high, z0 = v.width / 2 - 0.08, v.width / 2 - 0.25, item.z
    near, far = (0.3, 0.8) if item.flip > 0 else (0.9, 1.5), (2.7, 3.5)
    corners = [(item.x + s * low, v.body, z0 + z) for s in (-1, 1) for z in (near[0], far[1])]
    corners += [(item.x + s * high, v.cabin, z0 + z) for s in (-1, 1) for z in (near[1], far[0])]
    stage.canvas.hull(stage.camera.project(corners), color * 0.9, segment)
    pane = [
        (item.x - low + 0.1, v.body + 0.03, z0 + near[0]),
        (item.x + low - 0.1, v.body + 0.03, z0 + near[0]),
    ]
    pane += [
        (item.x + high - 0.08, v.cabin - 0.1, z0 + near[1]),
        (item.x - high + 0.08, v.cabin - 0.1, z0 + near[1]),
    ]
    stage.canvas.polygon(stage.camera.project(pane), stage.color("glass"))
    side = item.x - np.sign(item.x) * (v.width / 2 - 0.16)
    if abs(item.x) > v.width / 2:
        glass = [
            (z0 + near[1], v.body + 0.04),
            (z0 + far[1] - 0.3, v.body + 0.04),
            (z0 + far[0], v.cabin - 0.1),
            (z0 + near[1] + 0.1, v.cabin - 0.1),
        ]
        stage.canvas.polygon(_side(stage, side, glass), stage.color("glass") * 0.9)


def _flank(stage: Stage, v: Vehicle, x: float, z0: float, color: np.ndarray, segment: int) -> None:
    canvas = stage.canvas
    canvas.polygon(
        _side(
            stage,
            x,
            [(z0, v.floor), (z0 + v.length, v.floor), (z0 + v.length, v.body), (z0, v.body)],
        ),
        color * 0.85,
        segment,
    )
    turn = np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False)
    for z in (z0 + 0.17 * v.length, z0 + 0.8 * v.length):
        rim = list(zip(z + v.wheel * np.cos(turn), v.wheel * (1 + np.sin(turn)), strict=True))
        canvas.polygon(_side(stage, x, rim), stage.color("tyre"), segment)
    if v.windows and v.cabin == v.body:
        glass, (low, high) = stage.color("glass"), v.windows
        canvas.polygons(
            [
                _side(stage, x, [(z, low), (z + 1.35, low), (z + 1.35, high), (z, high)])
                for z in np.arange(z0 + 0.4, z0 + v.length - 1.4, 1.7)
            ],
            glass,
        )
        stripe = [(z0, 0.75), (z0 + v.length, 0.75), (z0 + v.length, 1.0), (z0, 1.0)]
        canvas.polygon(_side(stage, x, stripe), color * 1.25 if color.mean() < 150 else color * 0.6)


def _near_end(stage: Stage, item: Item, v: Vehicle, color: np.ndarray, segment: int) -> None:
    canvas, plane, half = stage.canvas, Upright(stage.camera, item.x, item.z), v.width / 2
    tyre = stage.color("tyre")
    for x in (-half + 0.05, half - 0.33):
        canvas.polygon(plane(box(x, x + 0.28, 0.0, 2 * v.wheel)), tyre, segment)
    canvas.polygon(plane(box(-half, half, v.floor, v.body)), color, segment)
    lamp, (w, h) = stage.color("tail_light" if item.flip > 0 else "head_light"), (0.3, 0.18)
    y = v.floor + (0.3 if v.label == "car" else 0.25)
    canvas.polygons([plane(box(x, x + w, y, y + h)) for x in (-half + 0.05, half - 0.05 - w)], lamp)
    END[v.label](stage, plane, v, color)


def _car_end(stage: Stage, plane: Upright, v: Vehicle, color: np.ndarray) -> None:
    stage.canvas.polygon(plane(box(-0.26, 0.26, 0.4, 0.54)), np.array((225.0, 225.0, 215.0)))
    stage.canvas.polygon(plane(box(-0.85, 0.85, v.floor, v.floor + 0.1)), color * 0.45)


def _bus_end(stage: Stage, plane: Upright, v: Vehicle, color: np.ndarray) -> None:
    stage.canvas.polygon(plane(box(-1.15, 1.15, 1.35, 2.5)), stage.color("glass"))
    stage.canvas.polygon(plane(box(-0.9, 0.9, 2.62, 2.95)), np.array((30.0, 30.0, 30.0)))
    stage.canvas.polygon(plane(box(-0.6, 0.6, 2.7, 2.87)), np.array((250.0, 180.0, 40.0)))


def _truck_end(stage: Stage, plane: Upright, v: Vehicle, color: np.ndarray) -> None:
    stage.canvas.polygons(
        [plane(box(x, x + 0.07, v.floor, v.body)) for x in (-1.1, -0.03, 1.03)], color * 0.6
    )
    stage.canvas.polygon(
        plane(box(-1.2, 1.2, v.floor - 0.25, v.floor)), np.array((170.0, 40.0, 40.0))
    )


def _train_end(stage: Stage, plane: Upright, v: Vehicle, color: np.ndarray) -> None:
    stage.canvas.polygon(
        plane([(-1.0, 1.4), (1.0, 1.4), (0.8, 2.7), (-0.8, 2.7)]), stage.color("glass")
    )
    stage.canvas.polygon(plane(box(-1.35, 1.35, 0.9, 1.15)), np.array((235.0, 235.0, 225.0)))
    stage.canvas.polygon(plane(box(-0.15, 0.15, 3.0, 3.25)), stage.color("head_light"))


END = {"car": _car_end, "bus": _bus_end, "truck": _truck_end, "train": _train_end}


def draw_crossing_car(stage: Stage, item: Item) -> None:
    """Draws a car across the street, seen from its side."""
    v, canvas, plane = VEHICLES["car"], stage.canvas, stage.upright(item)
    segment, color = _thing(stage, item, "car"), stage.color("car")
    _cast_shadow(stage, item, 2.1)
    body = [
        (-2.1, 0.3),
        (2.1, 0.3),
        (2.1, 0.7),
        (1.2, 0.9),
        (0.5, 1.44),
        (-1.1, 1.46),
        (-1.8, 0.95),
        (-2.1, 0.85),
    ]
    canvas.polygon(plane(body), color, segment)
    glass = [
        [(-1.0, 1.36), (-0.3, 1.36), (-0.3, 0.95), (-1.5, 0.95)],
        [(-0.2, 1.36), (0.42, 1.36), (0.95, 0.95), (-0.2, 0.95)],
    ]
    canvas.polygons([plane(g) for g in glass], stage.color("glass"))
    for x in (-1.3, 1.3):
        canvas.polygon(plane.disc((x, v.wheel), v.wheel), stage.color("tyre"), segment)
        canvas.polygon(plane.disc((x, v.wheel), 0.5 * v.wheel), stage.color("chrome"))


DRAW_ACTORS = {
    "person": draw_person,
    "group": draw_group,
    "bicycle": draw_bicycle,
    "motorcycle": draw_motorcycle,
    "ridden_bicycle": draw_ridden_bicycle,
    "ridden_motorcycle": draw_ridden_motorcycle,
    "crossing_car": draw_crossing_car,
    **dict.fromkeys(VEHICLES, draw_vehicle),
}
