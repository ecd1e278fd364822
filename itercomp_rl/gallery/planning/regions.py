"""Regions: a picture cut into rows of cells, each with a prompt of its own, as RPG's planner answers and RPG draws."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.planning.answer import (
    final_text,
    first_sentence,
    plain_numbers,
    statements,
    unwrapped,
    without_markup,
)
from itercomp_rl.gallery.planning.layout import MAX_BOXES, Box

_RATIO, _PROMPTS = "final split ratio", "regional prompt"
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)\s*%?"
_NUMBERS = re.compile(rf"{_NUMBER}(?:\s*[,;:]\s*{_NUMBER})*\s*;?")
_IS_MORE = re.compile(r"^\s*[,;:/%]|\d")  # after the numbers: then they were not the whole ratio
_BREAK = re.compile(r"[*_`\[<(]{0,4}\bBREAK\b[*_`\]>)]{0,4}")
_NUMBERED = re.compile(r"^(?:(?:region|cell)\s*\d+\s*[:：.)-]|\(?\d+[.):])\s+", re.IGNORECASE)


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
    left out and the others take their room; a planner's answer is read more strictly before (`read_ratio`).
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

    Raises: PlanError if there are more cells than phrases, or fewer: which phrase belongs where is not guessed.
    """
    cells = [cell for row in split_cells(ratio, len(phrases) + 1) for cell in row]
    if len(cells) != len(phrases):
        than = "more" if len(cells) > len(phrases) else "fewer"
        raise PlanError(
            f"the split ratio {ratio[:40]!r} of {prompt[:80]!r} has {than} cells than there are regional prompts "
            f"({len(phrases)}): one prompt for each cell is needed"
        )
    return Regions(
        prompt=prompt,
        cells=tuple(
            Box(phrase=phrase.strip(), left=left, top=top, right=right, bottom=bottom)
            for (top, bottom, left, right), phrase in zip(cells, phrases, strict=True)
        ),
    )


def parse_regions(prompt: str, answer: str) -> Regions:
    """The plan in a language model's answer, in the form that RPG asks for; the last complete statement counts.

    Raises: PlanError if the ratio or the prompts are missing, cannot be read, or do not fit each other.
    """
    said = statements(without_markup(final_text(answer)), (_RATIO, _PROMPTS))
    at_prompts = [i for i, statement in enumerate(said) if statement.label == _PROMPTS]
    at_ratios = [i for i, statement in enumerate(said) if statement.label == _RATIO]
    if not at_ratios or not at_prompts:
        missing = "Regional Prompt" if at_ratios else "Final split ratio"
        raise PlanError(f"the planner's answer to {prompt[:80]!r} has no {missing!r} line")
    before = [i for i in at_ratios if i < at_prompts[-1]]
    ratio = read_ratio(said[(before or at_ratios)[-1]].text)
    if before and at_ratios[-1] > at_prompts[-1] and read_ratio(said[at_ratios[-1]].text) != ratio:
        raise PlanError(
            f"the planner's answer to {prompt[:80]!r} states another split ratio after its regional prompts: which one "
            "it means is not guessed"
        )
    return regions_of(prompt, ratio, _phrases(said[at_prompts[-1]].text))


def read_ratio(text: str) -> str:
    """A split ratio as split_cells takes it, from forms in use: `1, 2`, `1:2`, `33%,67%`, `"1，2"`, `1,2 (a remark)`.

    Raises: PlanError for anything else.
    """
    line = " ".join(unwrapped(plain_numbers(text).strip().split("\n")[0]).strip("[](){}<> ").split())
    found = _NUMBERS.match(line)
    if found is None or _IS_MORE.search(line[found.end() :]):
        raise PlanError(f"the split ratio {line[:80]!r} is not of the form 1,2 or 1,1,1;2,1")
    numbers = re.sub(r"\s", "", found[0])
    if (":" in numbers and "," in numbers) or numbers.count("%") not in (0, len(re.findall(r"[\d.]+", numbers))):
        raise PlanError(f"the split ratio {line[:80]!r} mixes two forms: write 1,2 or 1,1,1;2,1")
    return numbers.replace(":", ",").replace("%", "")


def _phrases(text: str) -> list[str]:
    """The prompts of the cells, between BREAKs. Raises: PlanError if it cannot be said where one of them ends."""
    *inner, last = _BREAK.split(unwrapped(text))
    for part in inner:
        if "\n\n" in re.sub(r"\n\s*\n", "\n\n", part.strip()):
            raise PlanError(f"a regional prompt has several paragraphs: {part.strip()[:80]!r}")
    parts = [" ".join(part.split()) for part in inner] + [first_sentence(last)]
    return [_NUMBERED.sub("", unwrapped(part)).strip() for part in parts]
