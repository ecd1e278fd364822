"""Layouts as a language model writes them: a Python list of boxes, a background prompt, a negative prompt."""

import ast
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.planning.answer import final_text, first_sentence, in_ascii, statements, without_markup
from itercomp_rl.gallery.planning.layout import Box, Layout

SIZE_PX = 512  # side of the picture that the language model is told to plan
MAX_SCALE = 3.0  # boxes that leave the picture are moved and scaled back into it, enlarged by no more than this
MAX_OVERHANG_PX = 8  # a box that leaves the picture by more was not planned for this picture
_OBJECTS, _BACKGROUND, _NEGATIVE = "object", "background prompt", "negative prompt"
_STARTS = re.compile(r"\bobjects?[\"'*_`]{0,4}[ \t]{0,4}[:：=][\"'*_`\s]{0,12}(?=[\[［【])", re.IGNORECASE)
_BEFORE_BACKGROUND = re.compile(r"[\"'*_`#]{0,12}\bbackground[ _]prompt", re.IGNORECASE)
Pixels = tuple[float, float, float, float]  # x, y, width, height


def parse_layout(prompt: str, answer: str) -> Layout:
    """The layout in a language model's answer; boxes of the whole picture are left out.

    Raises: PlanError if the answer is not of the form asked for, a box has no area or leaves the picture by more than
    MAX_OVERHANG_PX, or none can be drawn.
    """
    objects, background, _ = read_answer(answer)
    fitted = fit([(phrase, _within(phrase, box)) for phrase, box in objects])
    if not fitted:
        raise PlanError(f"the layout of {prompt[:80]!r} has no box that can be drawn")
    return Layout(prompt=prompt, boxes=tuple(_box(phrase, box) for phrase, box in fitted), background=background)


def _within(phrase: str, box: Pixels) -> Pixels:
    """The box without the few pixels by which it leaves the picture: `fit` would enlarge the whole layout for them.

    Raises: PlanError for a box that was planned on another grid or is counted otherwise.
    """
    x, y, width, height = box
    if min(x, y) < -MAX_OVERHANG_PX or max(x + width, y + height) > SIZE_PX + MAX_OVERHANG_PX:
        raise PlanError(
            f"the box of {phrase[:80]!r} is {box}, x, y, width and height, and leaves the picture of {SIZE_PX} x "
            f"{SIZE_PX} pixels by more than {MAX_OVERHANG_PX}"
        )
    left, top = max(0.0, x), max(0.0, y)
    width, height = min(SIZE_PX, x + width) - left, min(SIZE_PX, y + height) - top
    if min(width, height) < 1:
        raise PlanError(f"the box of {phrase[:80]!r} is {box}: x, y, width and height in pixels are needed")
    return left, top, width, height


def read_answer(answer: str) -> tuple[list[tuple[str, Pixels]], str, str]:
    """Objects with their boxes in pixels, background prompt, negative prompt, as written; of several answers the last.

    Raises: PlanError if any of them is not complete.
    Source: the answer format of LLM-grounded diffusion (arXiv 2305.13655).
    """
    text = without_markup(final_text(answer))
    starts = [match.start() for match in _STARTS.finditer(text)] or [0]  # the first label may stand in the question
    starts = [*starts, len(text)]
    return [_layout(text[start:end]) for start, end in pairwise(starts)][-1]


def _layout(text: str) -> tuple[list[tuple[str, Pixels]], str, str]:
    said = statements(text, (_OBJECTS, _BACKGROUND, _NEGATIVE))
    backgrounds = [statement.text for statement in said if statement.label == _BACKGROUND]
    negatives = [statement.text for statement in said if statement.label == _NEGATIVE]
    if len(backgrounds) != 1:
        raise PlanError(f"the layout has {len(backgrounds)} background prompts, 1 is needed: {text[:120]!r}")
    if len(negatives) > 1:
        raise PlanError(f"the layout has {len(negatives)} negative prompts: {text[:120]!r}")
    objects = [statement.text for statement in said if statement.label == _OBJECTS]
    unlabelled = _BEFORE_BACKGROUND.split(text)[0]
    negative = first_sentence("".join(negatives))
    return (
        _objects((objects[-1] if objects else unlabelled).strip(' \t\n`,"')),
        first_sentence(backgrounds[0]),
        "" if negative.lower() in ("none", "none.") else negative,
    )


def _objects(text: str) -> list[tuple[str, Pixels]]:
    if not text.startswith(("[", "［", "【")):
        if "[" in text or "(" in text:
            raise PlanError(f"the layout's boxes are not a list: {text[:120]!r}")
        return []  # "No objects needed."
    try:
        return [(str(phrase), _pixels(box)) for phrase, box in _evaluated(text)]
    except (SyntaxError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise PlanError(f"the layout's boxes cannot be read ({error}): {text[:120]!r}") from error


def _evaluated(text: str) -> Any:  # Any: a literal, whose form the caller checks
    """The literal; typographic quotation marks and full-width punctuation count where it cannot be read as it is."""
    try:
        return ast.literal_eval(text)
    except SyntaxError:
        return ast.literal_eval(in_ascii(text))


def _pixels(box: object) -> Pixels:
    if not isinstance(box, list | tuple):
        raise ValueError(f"{box!r:.40} is no list of x, y, width and height")
    x, y, width, height = (float(number) for number in box)
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError(f"{box!r:.40} holds no finite numbers")
    return x, y, width, height


def fit(objects: Sequence[tuple[str, Pixels]], size: float = SIZE_PX) -> list[tuple[str, Pixels]]:
    """Boxes that can be drawn, in whole pixels; if one leaves the picture, all move and scale together to fit."""
    kept = [
        (phrase.strip().rstrip("."), (x, y, width, height))
        for phrase, (x, y, width, height) in objects
        if width > 0 and height > 0 and x < size and y < size and not _covers(x, y, width, height, size)
    ]
    if any(x < 0 or y < 0 or x + width > size or y + height > size for _, (x, y, width, height) in kept):
        kept = _moved(kept, size)
    rounded = [(phrase, (round(x), round(y), round(width), round(height))) for phrase, (x, y, width, height) in kept]
    return [(phrase, box) for phrase, box in rounded if min(box[2:]) > 0 and phrase]


def _covers(x: float, y: float, width: float, height: float, size: float) -> bool:
    return x <= 0 and y <= 0 and x + width >= size and y + height >= size


def _moved(objects: Sequence[tuple[str, Pixels]], size: float) -> list[tuple[str, Pixels]]:
    boxes = [box for _, box in objects]
    left, right = min(b[0] for b in boxes), max(b[0] + b[2] for b in boxes)
    top, bottom = min(b[1] for b in boxes), max(b[1] + b[3] for b in boxes)
    scale = min(MAX_SCALE, size / (right - left), size / (bottom - top))
    dx, dy = _shift(left * scale, right * scale, size), _shift(top * scale, bottom * scale, size)
    return [
        (phrase, (x * scale + dx, y * scale + dy, width * scale, height * scale))
        for phrase, (x, y, width, height) in objects
    ]


def _shift(low: float, high: float, size: float) -> float:
    """The least move that brings low..high into 0..size."""
    return -low if low < 0 else min(0.0, size - high)


def _box(phrase: str, box: Pixels) -> Box:
    x, y, width, height = (number / SIZE_PX for number in box)
    return Box(phrase=phrase, left=x, top=y, right=min(1.0, x + width), bottom=min(1.0, y + height))
