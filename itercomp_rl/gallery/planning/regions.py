"""Regions: a picture cut into rows of cells, each with a prompt of its own, as RPG's planner answers and RPG draws."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.planning.layout import MAX_BOXES, Box

MAX_CHARACTERS = 64_000
_RATIO = re.compile(r"Final split ratio:\s*([\d.,;]+)", re.IGNORECASE)
_PROMPTS = re.compile(r"Regional Prompt:\s*(.*?)(?=\n\n|\Z)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """Cells that tile the picture: Regions(prompt="a cup left of a plate", cells=(Box(phrase="a cup", ...), ...))."""

    prompt: str  # of the whole picture
    cells: tuple[Box, ...]

    def __post_init__(self) -> None:
        """Raises: PlanError if the cells leave a gap, overlap, or are too many."""
        if not 1 <= len(self.cells) <= MAX_BOXES:
            raise PlanError(f"the plan of {self.prompt!r} has {len(self.cells)} regions; 1 to {MAX_BOXES} are taken")
        area = sum((cell.right - cell.left) * (cell.bottom - cell.top) for cell in self.cells)
        overlaps = any(_overlap(a, b) for i, a in enumerate(self.cells) for b in self.cells[:i])
        if abs(area - 1) > 1e-6 or overlaps:
            raise PlanError(f"the regions of {self.prompt!r} do not tile the picture: they cover {area:.3f} of it")


def _overlap(a: Box, b: Box) -> bool:
    width = min(a.right, b.right) - max(a.left, b.left)
    return width > 1e-9 and min(a.bottom, b.bottom) - max(a.top, b.top) > 1e-9


Cell = tuple[float, float, float, float]  # top, bottom, left, right, in shares of the picture


def split_cells(ratio: str, num: int | None = None) -> list[list[Cell]]:
    """Rows of cells of a split ratio: "1,2" is one row of two columns, "1,1,1;2,4,6" two rows, heights first.

    As in RPG's own reading, an empty or unreadable number counts as 1, and with `num` the cells after so many are
    left out and the others take their room.
    Raises: PlanError if a number is not above 0.
    """
    texts = ratio.strip().strip(";").split(";")
    rows = [[_number(text, ratio) for text in row.split(",")] for row in texts[:num]]  # a row has a cell at least
    if len(texts) == 1:
        heights, columns = [1.0], rows
    else:
        heights, columns = [row[0] for row in rows], [row[1:] or [1.0] for row in rows]
    if num is not None:
        room = [max(0, num - sum(map(len, columns[:i]))) for i in range(len(columns))]
        columns = [row[:left] for row, left in zip(columns, room, strict=True) if left]
        heights = heights[: len(columns)]
    return [
        [(top, bottom, left, right) for left, right in _spans(row)]
        for (top, bottom), row in zip(_spans(heights), columns, strict=True)
    ]


def _number(text: str, ratio: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 1.0
    if not 0 < number < float("inf"):
        raise PlanError(f"split ratio {ratio!r} holds {text!r}: numbers above 0 are needed")
    return number


def _spans(sizes: Sequence[float]) -> list[tuple[float, float]]:
    total = sum(sizes)
    edges = [sum(sizes[:i]) / total for i in range(len(sizes))] + [1.0]
    return list(pairwise(edges))


def regions_of(prompt: str, ratio: str, phrases: Sequence[str]) -> Regions:
    """The plan of a split ratio and the phrases of its cells, row by row.

    As RPG reads them: with too few phrases the last cells are left out, what is too many joins the last cell's.
    """
    cells = [cell for row in split_cells(ratio, len(phrases)) for cell in row]
    phrases = [*phrases[: len(cells) - 1], ", ".join(phrases[len(cells) - 1 :])]
    return Regions(
        prompt=prompt,
        cells=tuple(
            Box(phrase=phrase.strip(), left=left, top=top, right=right, bottom=bottom)
            for (top, bottom, left, right), phrase in zip(cells, phrases, strict=True)
        ),
    )


def parse_regions(prompt: str, answer: str) -> Regions:
    """The plan in a language model's answer, in the form that RPG asks for; the last statement of each kind counts.

    Raises: PlanError if the ratio or the prompts are missing or do not fit each other.
    """
    if len(answer) > MAX_CHARACTERS:
        raise PlanError(f"the planner's answer has {len(answer)} characters; at most {MAX_CHARACTERS} are read")
    ratios, prompts = _RATIO.findall(answer), _PROMPTS.findall(answer)
    if not ratios or not prompts:
        missing = "Regional Prompt" if ratios else "Final split ratio"
        raise PlanError(f"the planner's answer to {prompt[:80]!r} has no {missing!r} line")
    return regions_of(prompt, ratios[-1], [part.strip() for part in prompts[-1].split("BREAK")])
