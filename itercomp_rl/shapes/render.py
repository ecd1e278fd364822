"""The renderer: a scene and a layout become pixels, by signed distances, many images at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.shapes.scenes import SHAPES, Scene, Thing

SIZE = 32  # pixels, both ways
BACKGROUND = (236, 236, 232)
LINE = (60, 60, 60)
PALETTE = {
    "red": (216, 40, 44),
    "green": (36, 160, 68),
    "blue": (44, 76, 220),
    "yellow": (240, 204, 32),
    "purple": (156, 52, 188),
    "cyan": (40, 200, 216),
}


@dataclass(frozen=True, slots=True)
class Placement:
    """(x, y, radius) in pixels, first and second: Placement((8.0, 16.0, 5.5), (24.0, 16.0, 5.5))."""

    first: tuple[float, float, float]
    second: tuple[float, float, float]


def place(scene: Scene, rng: np.random.Generator, freedom: float = 1.0) -> Placement:
    """A layout in which `scene` holds; `freedom` in [0,1] scales every jitter.

    The side is drawn where the relation leaves it open.
    """

    def jitter(width: float) -> float:
        return float(rng.uniform(-width, width)) * freedom

    radius_a, radius_b = 5.6 + jitter(0.7), 5.6 + jitter(0.7)
    if scene.relation == "inside":
        x, y = 16 + jitter(2.0), 16 + jitter(2.0)
        lower = 2.5 if scene.second.shape == "triangle" else 0.0  # a triangle is wide enough only below its middle
        return Placement((x + jitter(1.0), y + lower + jitter(1.0), 4.4 + jitter(0.4)), (x, y, 12.0 + jitter(1.0)))
    # The second object lies at `angle` from the first: 0 = to the right of it, a quarter turn = below it.
    turns = {"left": 0, "above": 1, "right": 2, "below": 3}.get(scene.relation)
    if turns is None:
        turns = int(rng.integers(4))
    angle = turns * np.pi / 2 + jitter(0.2)
    if scene.relation == "touching":
        half = (_reach(scene.first.shape, radius_a, turns) + _reach(scene.second.shape, radius_b, turns + 2)) / 2
        angle = turns * np.pi / 2
    else:
        half = 8.1 + jitter(0.5)
    dx, dy = half * float(np.cos(angle)), half * float(np.sin(angle))
    x, y = 16 + jitter(1.3), 16 + jitter(1.3)
    return Placement((x - dx, y - dy, radius_a), (x + dx, y + dy, radius_b))


def _reach(shape: str, radius: float, turns: int) -> float:
    """How far a shape extends from its centre in a direction counted in quarter turns from +x, clockwise."""
    if shape == "triangle":  # apex up, base down: its flanks lean away from a neighbour
        return radius * (0.75, 0.9, 0.75, 1.0)[turns % 4]
    return radius * (0.9 if shape == "square" else 1.0)


def render(scenes: Sequence[Scene], layouts: Sequence[Placement]) -> NDArray[np.uint8]:
    """Pixels [N, SIZE, SIZE, 3], edges anti-aliased over one pixel; the first object lies on top of the second."""
    grid = np.arange(SIZE) + 0.5
    x, y = grid[None, None, :], grid[None, :, None]
    image = np.broadcast_to(np.array(BACKGROUND, np.float32), (len(scenes), SIZE, SIZE, 3))
    first, second = (np.array([getattr(layout, part) for layout in layouts]) for part in ("first", "second"))
    tied = np.array([scene.relation == "tied" for scene in scenes], dtype=np.float64)
    image = _paint(image, _segment(x, y, first, second) * tied[:, None, None], [LINE] * len(scenes))
    for part, places in (("second", second), ("first", first)):
        things = [getattr(scene, part) for scene in scenes]
        cover = cover_of(things, places)
        image = _paint(image, cover, [PALETTE[thing.colour] for thing in things])
    return np.round(image).astype(np.uint8)


def _paint(image: NDArray, cover: NDArray, colours: Sequence[tuple[int, int, int]]) -> NDArray:
    alpha = cover[..., None].astype(np.float32)
    return image * (1 - alpha) + np.array(colours, np.float32)[:, None, None, :] * alpha


def cover_of(things: Sequence[Thing], places: NDArray) -> NDArray:
    """Share of each pixel that a thing at (x, y, radius) covers, [N, SIZE, SIZE]; places are [N, 3]."""
    centre_x, centre_y, radius = (places[:, i, None, None] for i in range(3))
    grid = np.arange(SIZE) + 0.5
    dx, dy = grid[None, None, :] - centre_x, grid[None, :, None] - centre_y
    distance = np.stack([shape_distance(name, dx, dy, radius) for name in SHAPES])
    chosen = distance[[SHAPES.index(thing.shape) for thing in things], np.arange(len(things))]
    return np.clip(0.5 - chosen, 0, 1)


def shape_distance(shape: str, dx: NDArray, dy: NDArray, radius: NDArray | float) -> NDArray:
    """Signed distance in pixels from the edge of a shape centred at 0, negative inside."""
    if shape == "circle":
        return np.hypot(dx, dy) - radius
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - 0.9 * radius
    if shape == "triangle":  # isosceles, apex up: from (0, -r) to (+-1.05 r, .9 r)
        slope = np.hypot(1.9, 1.05)
        flank = (1.9 * np.abs(dx) - 1.05 * (dy + radius)) / slope
        return np.maximum(flank, dy - 0.9 * radius)
    if shape == "cross":
        arm = 0.36 * radius
        tall = np.maximum(np.abs(dx) - arm, np.abs(dy) - radius)
        wide = np.maximum(np.abs(dx) - radius, np.abs(dy) - arm)
        return np.minimum(tall, wide)
    raise ValueError(f"shape {shape!r} is unknown: {', '.join(SHAPES)}")


def _segment(x: NDArray, y: NDArray, start: NDArray, end: NDArray) -> NDArray:
    """Cover of a line 1.8 pixels wide between two centres, [N, SIZE, SIZE]."""
    ax, ay, bx, by = (v[:, None, None] for v in (start[:, 0], start[:, 1], end[:, 0], end[:, 1]))
    length2 = np.maximum((bx - ax) ** 2 + (by - ay) ** 2, 1e-9)
    along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length2, 0, 1)
    return np.clip(0.9 + 0.5 - np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)), 0, 1)
