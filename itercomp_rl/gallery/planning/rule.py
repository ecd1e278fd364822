"""The deterministic planner: a prompt's objects and relations as regions, boxes or a canvas, without any model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from itercomp_rl.gallery.planning.canvas import Canvas, Part, colour_of, place, sentence
from itercomp_rl.gallery.planning.layout import MAX_BOXES, Box, Layout
from itercomp_rl.gallery.planning.objects import COLOURS, Object, Parsed, Relation, parse_prompt
from itercomp_rl.gallery.planning.regions import Regions, regions_of

MAX_OBJECTS = 9  # more are left to the whole prompt: their places would be too small to be drawn
_MARGIN = 0.08  # of a cell, on each side of a box
_FALLBACK_PHRASE = "a picture"  # for a prompt without a word


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """Where objects stand: object -> (row, column); `back` lies behind, or around, `front` in the same cell."""

    cells: dict[int, tuple[int, int]]
    num_rows: int
    num_columns: int
    front: int | None = None
    back: int | None = None
    is_inside: bool = False


def regions(prompt: str) -> Regions:
    """Columns for objects beside each other, rows for those above each other, the whole picture for a lone one."""
    parsed = _parse(prompt)
    things, grid = parsed.objects, _grid(parsed)
    phrases = [thing.phrase for thing in things]
    if not things:
        return regions_of(prompt, "1", [prompt.strip() or _FALLBACK_PHRASE])
    if grid.front is not None and grid.back is not None:
        outer, inner = phrases[grid.back], phrases[grid.front]
        if grid.is_inside:
            return regions_of(prompt, "1,1;2,1,2,1;1,1", [outer, outer, inner, outer, outer])
        return regions_of(prompt, "1;1", [outer, inner])
    rows = [_row(grid, number) for number in range(grid.num_rows)]
    ratio = ";".join(",".join("1" for _ in range(len(row) + (len(rows) > 1))) for row in rows)
    return regions_of(prompt, ratio, [phrases[index] for row in rows for index in row])


def layout(prompt: str) -> Layout:
    """A box for each thing, as many as the prompt counts, within the object's own part of the picture."""
    parsed = _parse(prompt)
    grid = _grid(parsed)
    boxes: list[Box] = []
    for index, thing in enumerate(parsed.objects):
        area = _area(grid, index)
        boxes += _boxes(thing, area)
    if not boxes:
        boxes = [Box(phrase=prompt.strip() or _FALLBACK_PHRASE, left=0.1, top=0.1, right=0.9, bottom=0.9)]
    return Layout(prompt=prompt, boxes=tuple(boxes[:MAX_BOXES]))


def canvas(prompt: str) -> Canvas:
    """A part for each object in its place, those behind or around others farther away."""
    parsed = _parse(prompt)
    grid = _grid(parsed)
    return Canvas(
        prompt=prompt,
        description=sentence(prompt),
        details=(),
        colour=colour_of("white"),
        parts=tuple(_part(grid, index, thing) for index, thing in enumerate(parsed.objects)),
    )


def _parse(prompt: str) -> Parsed:
    found = parse_prompt(prompt)
    kept = found.objects[:MAX_OBJECTS]
    relations = tuple(r for r in found.relations if max(r.first, r.second) < len(kept))
    return Parsed(objects=kept, relations=relations)


def _grid(parsed: Parsed) -> _Grid:
    """Rows and columns that agree with the relations; what nothing is said of stands beside the rest."""
    num = len(parsed.objects)
    if num == 2 and parsed.relations and parsed.relations[0].kind in ("front", "behind", "inside"):
        return _stacked(parsed.relations[0])
    said = {relation.second: relation for relation in parsed.relations}
    spots: dict[int, tuple[int, int]] = {}
    for index in range(num):
        relation = said.get(index)
        near = spots[relation.first] if relation and relation.first in spots else None
        row, column = _beside(near, relation.kind if relation else "near") if near else (0, len(spots))
        spots[index] = _free(row, column, spots)
    rows = sorted({row for row, _ in spots.values()})
    columns = sorted({column for _, column in spots.values()})
    return _Grid(
        cells={index: (rows.index(row), columns.index(column)) for index, (row, column) in spots.items()},
        num_rows=len(rows),
        num_columns=len(columns),
    )


def _stacked(relation: Relation) -> _Grid:
    is_first_in_front = relation.kind in ("front", "inside")
    front, back = (relation.first, relation.second) if is_first_in_front else (relation.second, relation.first)
    return _Grid(
        cells={front: (0, 0), back: (0, 0)},
        num_rows=1,
        num_columns=1,
        front=front,
        back=back,
        is_inside=relation.kind == "inside",
    )


def _beside(near: tuple[int, int], kind: str) -> tuple[int, int]:
    """Where an object stands if the one before it, at `near`, stands `kind` of it."""
    row, column = near
    steps = {"left": (0, 1), "right": (0, -1), "above": (1, 0), "below": (-1, 0)}
    down, across = steps.get(kind, (0, 1))
    return row + down, column + across


def _free(row: int, column: int, spots: dict[int, tuple[int, int]]) -> tuple[int, int]:
    while (row, column) in spots.values():
        column += 1
    return row, column


def _row(grid: _Grid, number: int) -> list[int]:
    return sorted((i for i, (row, _) in grid.cells.items() if row == number), key=lambda i: grid.cells[i][1])


def _area(grid: _Grid, index: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of an object's part of the picture."""
    if grid.is_inside:
        return (0.3, 0.3, 0.7, 0.7) if index == grid.front else (0.05, 0.05, 0.95, 0.95)
    if grid.front is not None:
        return (0.15, 0.4, 0.85, 1.0) if index == grid.front else (0.2, 0.0, 0.8, 0.7)
    row, column = grid.cells[index]
    beside = _row(grid, row)
    # A row with fewer objects than the picture has columns shares out its whole width.
    left, width = (beside.index(index), len(beside)) if grid.num_rows > 1 else (column, grid.num_columns)
    return left / width, row / grid.num_rows, (left + 1) / width, (row + 1) / grid.num_rows


def _boxes(thing: Object, area: tuple[float, float, float, float]) -> list[Box]:
    """`thing.count` boxes in the area, row by row, near squares of cells."""
    left, top, right, bottom = area
    num_rows = max(1, round(math.sqrt(thing.count * (bottom - top) / (right - left))))
    num_columns = math.ceil(thing.count / num_rows)
    width, height = (right - left) / num_columns, (bottom - top) / num_rows
    phrase = thing.phrase if thing.count == 1 else " ".join(thing.phrase.split()[1:])
    found = []
    for number in range(thing.count):
        row, column = divmod(number, num_columns)
        x, y = left + column * width, top + row * height
        found.append(
            Box(
                phrase=phrase,
                left=x + _MARGIN * width,
                top=y + _MARGIN * height,
                right=x + (1 - _MARGIN) * width,
                bottom=y + (1 - _MARGIN) * height,
            )
        )
    return found


def _part(grid: _Grid, index: int, thing: Object) -> Part:
    location, offset, area, distance = _words(grid, index)
    colours = [word for word in thing.phrase.lower().split() if word in COLOURS]
    return Part(
        rect=place(location, offset, area),
        distance=distance,
        description=sentence(thing.phrase),
        details=(),
        colour=colour_of(colours[0] if colours else "gray"),
    )


def _words(grid: _Grid, index: int) -> tuple[str, str, str, float]:
    """Location, offset and area in a canvas's words, and the distance."""
    if grid.is_inside:
        area, distance = ("a small square area", 1.0) if index == grid.front else _LARGE_BEHIND
        return "in the center", "no offset", area, distance
    if grid.front is not None:
        if index == grid.front:
            return "in the center", "slightly to the lower", "a medium-sized square area", 1.0
        area, distance = _LARGE_BEHIND
        return "in the center", "slightly to the upper", area, distance
    left, top, right, bottom = _area(grid, index)
    side = _third((left + right) / 2, ("left", "", "right"))
    level = _third((top + bottom) / 2, ("top", "", "bottom"))
    location = f"on the {level}-{side}" if side and level else f"on the {side or level}"
    return location if side or level else "in the center", "no offset", _area_word(right - left, bottom - top), 1.0


_LARGE_BEHIND = ("a large square area", 2.0)


def _third(middle: float, names: Sequence[str]) -> str:
    return names[0] if middle < 0.4 else names[2] if middle > 0.6 else names[1]


def _area_word(width: float, height: float) -> str:
    if width > 0.9 and height > 0.9:
        return "a large square area"
    if height > 0.9:
        return "a medium-sized vertical area" if width > 0.4 else "a small vertical area"
    if width > 0.9:
        return "a medium-sized horizontal area" if height > 0.4 else "a small horizontal area"
    return "a small square area"
