"""The content of an image: camera, street plan, roadsides and objects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gbw_d2.toyworld import street as st
from gbw_d2.toyworld.actors import DRAW_ACTORS, VEHICLES
from gbw_d2.toyworld.canvas import Camera, Canvas, Segment
from gbw_d2.toyworld.looks import Look
from gbw_d2.toyworld.street import Item, Stage, Street

DRAW = {**st.DRAW_STREET, **DRAW_ACTORS}

THINGS = (
    "car",
    "bus",
    "truck",
    "train",
    "person",
    "group",
    "bicycle",
    "motorcycle",
    "ridden_bicycle",
    "ridden_motorcycle",
)
FURNITURE = ("pole", "light", "sign", "tree", "litter")
# Share of images without any thing, in addition to the fixed one.
QUIET_SHARE = 0.03
CROWDED_CAMERA_HEIGHT = 5.0


def sample_camera(look: Look, rows: int, columns: int, rng: np.random.Generator) -> Camera:
    """Draws the random camera of one image; rows and columns are the canvas size in pixels."""
    lay = look.layout
    return Camera(
        focal=rows * (lay["focal"] + lay["focal_spread"] * rng.uniform(-1, 1)),
        center=columns * (0.5 + lay["center_spread"] * rng.uniform(-1, 1)),
        horizon=rows * (lay["horizon"] + lay["horizon_spread"] * rng.uniform(-1, 1)),
        height=lay["camera_height"] + lay["camera_height_spread"] * rng.uniform(-1, 1),
    )


def sample_street(look: Look, rng: np.random.Generator) -> Street:
    """Draws a random street plan; the camera is in the right-hand lane."""
    width = look.layout["road_width"] * rng.uniform(0.85, 1.2)
    left = -width * rng.uniform(0.5, 0.68)
    z = rng.uniform(14.0, 32.0)
    crossing = (z, z + rng.uniform(6.0, 9.0)) if rng.random() < look.layout["crossing"] else None
    sidewalk = look.layout["sidewalk_width"] * rng.uniform(0.7, 1.4)
    return Street(left, left + width, sidewalk, crossing)


def draw_roadsides(stage: Stage) -> None:
    """Lines both sides of the street with buildings, walls, fences and so on, far ones first."""
    look, rng, street = stage.look, stage.rng, stage.street
    kinds = [name for name in look.prior if name.startswith("roadside_")]
    shares = np.array([look.prior[name] for name in kinds])
    for edge in (street.left - street.sidewalk, street.right + street.sidewalk):
        stretches, z = [], st.NEAR
        while z < 0.9 * st.FAR:
            kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())].removeprefix("roadside_")
            end = z + rng.uniform(7.0, 20.0)
            stretches += _cut(kind, z, end, street.crossing)
            z = end
        for kind, z0, z1 in reversed(stretches):
            st.draw_roadside(stage, kind, edge, z0, z1)


def _cut(
    kind: str, z0: float, z1: float, crossing: tuple[float, float] | None
) -> list[tuple[str, float, float]]:
    """Cuts a stretch of roadside where a crossing road meets it."""
    if crossing is None or z1 < crossing[0] or z0 > crossing[1]:
        return [(kind, z0, z1)]
    pieces = ((z0, crossing[0] - 2.0), (crossing[1] + 2.0, z1))
    return [(kind, a, b) for a, b in pieces if b - a > 1.5]


def sample_items(
    look: Look, street: Street, rng: np.random.Generator, with_things: bool, crowd: bool
) -> list[Item]:
    """Draws the random objects on the street, from far to near.

    Args:
        look: the domain's numbers.
        street: the street's plan.
        rng: source of randomness.
        with_things: whether the image has things.
        crowd: whether this domain marks some groups as crowd regions.
    """
    items: list[Item] = []
    for kind in FURNITURE:
        for _ in range(rng.poisson(look.prior[kind])):
            items.append(_place_furniture(kind, look, street, rng))
    if rng.random() < 0.12:
        items.append(
            Item("road_work", rng.uniform(street.left, street.right), rng.uniform(9.0, 25.0))
        )
    for kind in THINGS if with_things else ():
        for _ in range(rng.poisson(look.prior[kind])):
            item = PLACE.get(kind, _place_person)(kind, look, street, rng, crowd)
            if not any(_collide(item, other) for other in items):
                items.append(item)
    return sorted(items, key=lambda item: -item.z)


def _depth(look: Look, rng: np.random.Generator, near: float = 1.0, far: float = 1.0) -> float:
    low, high = near * look.layout["nearest"], far * look.layout["farthest"]
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _side(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _edge(street: Street, side: int) -> float:
    return street.right if side > 0 else street.left


def _place_furniture(kind: str, look: Look, street: Street, rng: np.random.Generator) -> Item:
    side = _side(rng)
    away = (
        rng.uniform(0.4, 0.9) if kind != "tree" else rng.uniform(0.9, 0.8 * street.sidewalk + 1.0)
    )
    return Item(kind, _edge(street, side) + side * away, _depth(look, rng, 1.1), -side)


def _place_person(
    kind: str, look: Look, street: Street, rng: np.random.Generator, crowd: bool
) -> Item:
    side = _side(rng)
    on_road = rng.random() < 0.15
    x = (
        rng.uniform(street.left, street.right)
        if on_road
        else _edge(street, side) + side * rng.uniform(0.3, street.sidewalk)
    )
    is_crowd = kind == "group" and crowd and rng.random() < 0.7
    z = _depth(look, rng, 1.8) if kind == "group" else _depth(look, rng, 1.0, 0.8)
    return Item(kind, x, z, _side(rng), is_crowd)


def _place_parked(
    kind: str, look: Look, street: Street, rng: np.random.Generator, crowd: bool
) -> Item:
    side = _side(rng)
    return Item(
        kind,
        _edge(street, side) + side * rng.uniform(-0.6, 1.6),
        _depth(look, rng, 0.9, 0.6),
        _side(rng),
    )


def _place_ridden(
    kind: str, look: Look, street: Street, rng: np.random.Generator, crowd: bool
) -> Item:
    return Item(
        kind,
        rng.uniform(street.left + 0.8, street.right - 0.8),
        _depth(look, rng, 0.9, 0.5),
        _side(rng),
    )


def _place_vehicle(
    kind: str, look: Look, street: Street, rng: np.random.Generator, crowd: bool
) -> Item:
    side = _side(rng)
    half = VEHICLES[kind].width / 2
    parked = kind == "car" and rng.random() < look.prior["parked_share"]
    if kind == "car" and street.crossing and rng.random() < 0.25:
        return Item("crossing_car", rng.uniform(-12.0, 12.0), rng.uniform(*street.crossing), side)
    middle = 0.5 * (street.left + street.right)
    lane = 0.5 * (_edge(street, side) + middle)
    x = _edge(street, side) - side * (half + 0.2) if parked else lane + rng.uniform(-0.5, 0.5)
    near = 1.0 if kind == "car" else 1.5
    return Item(kind, x, _depth(look, rng, near), side)


PLACE = {
    **dict.fromkeys(VEHICLES, _place_vehicle),
    "bicycle": _place_parked,
    "motorcycle": _place_parked,
    "ridden_bicycle": _place_ridden,
    "ridden_motorcycle": _place_ridden,
}


def _reach(item: Item) -> tuple[float, float]:
    vehicle = VEHICLES.get(item.kind)
    return (vehicle.width, vehicle.length) if vehicle else (1.0, 0.6)


def _collide(a: Item, b: Item) -> bool:
    if a.kind not in VEHICLES and b.kind not in VEHICLES:
        return False
    (wa, la), (wb, lb) = _reach(a), _reach(b)
    return abs(a.x - b.x) < (wa + wb) / 2 and a.z < b.z + lb + 0.5 and b.z < a.z + la + 0.5


def crowded_items(camera: Camera, rng: np.random.Generator, columns: int) -> list[Item]:
    """Fills the street with rows of people, more than 255 of them visible."""
    items = []
    for z in np.geomspace(46.0, 12.0, 14):
        left = -camera.center / camera.scale(z)
        right = left + columns / camera.scale(z)
        for x in np.arange(left, right, 0.75):
            jitter = rng.uniform(-0.1, 0.1, size=2)
            items.append(Item("person", x + jitter[0], z + jitter[1], _side(rng)))
    return sorted(items, key=lambda item: -item.z)


def draw_hood_and_border(stage: Stage) -> None:
    """Paints the ego vehicle's hood and the border of the rectified image, both void."""
    canvas, lay, rng = stage.canvas, stage.look.layout, stage.rng
    rows, columns = canvas.segments.shape
    top = rows * (1.0 - lay["hood"] * rng.uniform(0.6, 1.2))
    if lay["hood"] > 0 and rng.random() < 0.9:
        arc = [(0.1, 0.55), (0.3, 0.1), (0.5, 0.0), (0.7, 0.1), (0.9, 0.55)]
        outline = [
            (0.0, rows),
            *((columns * x, top + y * (rows - top)) for x, y in arc),
            (columns, rows),
        ]
        segment = canvas.add(Segment("ego vehicle", 1.0))
        canvas.polygon(np.array(outline), stage.color("hood"), segment)
    if rng.random() < lay["border"]:
        segment, width = canvas.add(Segment("out of roi", 1.0)), 2 * int(rng.integers(1, 4))
        for edge in (np.s_[:width], np.s_[:, :width], np.s_[:, columns - width :]):
            canvas.color[edge], canvas.segments[edge] = 0, segment


def draw_scene(
    look: Look, rows: int, columns: int, rng: np.random.Generator, things: str, crowd: bool
) -> tuple[Canvas, Camera]:
    """Draws one picture at canvas size, without light, weather or sensor.

    Args:
        look: the domain's numbers.
        rows: canvas rows.
        columns: canvas columns.
        rng: source of randomness.
        things: "usual", "none" or "crowded".
        crowd: whether this domain marks some groups as crowd regions.

    Returns:
        The canvas, and the camera that determines the ground's depth.
    """
    camera, street = sample_camera(look, rows, columns, rng), sample_street(look, rng)
    if things == "crowded":
        # The camera is high, because otherwise the first row would hide the others.
        camera = replace(camera, height=CROWDED_CAMERA_HEIGHT)
    stage = Stage(Canvas(rows, columns), camera, look, street, rng)
    st.draw_sky(stage)
    st.draw_ground(stage)
    draw_roadsides(stage)
    with_things = things == "usual" and rng.random() >= QUIET_SHARE
    items = (
        crowded_items(camera, rng, columns)
        if things == "crowded"
        else sample_items(look, street, rng, with_things, crowd)
    )
    for item in items:
        DRAW[item.kind](stage, item)
    draw_hood_and_border(stage)
    return stage.canvas, camera
