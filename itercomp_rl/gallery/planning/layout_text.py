"""Layouts as a language model writes them: a Python list of boxes, a background prompt, a negative prompt."""

import ast
import math
from collections.abc import Sequence

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.planning.layout import Box, Layout

SIZE_PX = 512  # side of the picture that the language model is told to plan
MAX_SCALE = 3.0  # boxes that leave the picture are moved and scaled back into it, enlarged by no more than this
MAX_CHARACTERS = 64_000
Pixels = tuple[float, float, float, float]  # x, y, width, height


def parse_layout(prompt: str, answer: str) -> Layout:
    """The layout in a language model's answer; empty boxes and boxes of the whole picture are left out.

    Raises: PlanError if the answer is not of the form asked for, or holds no box that can be drawn.
    """
    objects, background, _ = read_answer(answer)
    fitted = fit([(phrase, box) for phrase, box in objects])
    if not fitted:
        raise PlanError(f"the layout of {prompt[:80]!r} has no box that can be drawn")
    return Layout(prompt=prompt, boxes=tuple(_box(phrase, box) for phrase, box in fitted), background=background)


def read_answer(answer: str) -> tuple[list[tuple[str, Pixels]], str, str]:
    """Objects with their boxes in pixels, background prompt, negative prompt, as written. Raises: PlanError.

    Source: the answer format of LLM-grounded diffusion (arXiv 2305.13655).
    """
    if len(answer) > MAX_CHARACTERS:
        raise PlanError(f"the layout has {len(answer)} characters; at most {MAX_CHARACTERS} are read")
    _, mark, after = answer.partition("Objects:")
    parts = (after if mark else answer).split("Background prompt:")
    if len(parts) != 2:
        raise PlanError(f"the layout has {len(parts) - 1} background prompts, 1 is needed: {answer[:120]!r}")
    rest = parts[1].split("Negative prompt:")
    if len(rest) > 2:
        raise PlanError(f"the layout has {len(rest) - 1} negative prompts: {answer[:120]!r}")
    negative = rest[1].strip() if len(rest) == 2 else ""
    objects = _objects(parts[0].strip())
    return objects, rest[0].strip(), "" if negative.lower() in ("none", "none.") else negative


def _objects(text: str) -> list[tuple[str, Pixels]]:
    if not text.startswith("["):
        if "[" in text or "(" in text:
            raise PlanError(f"the layout's boxes are not a list: {text[:120]!r}")
        return []  # "No objects needed."
    try:
        found = ast.literal_eval(text)
        return [(str(phrase), _pixels(box)) for phrase, box in found]
    except (SyntaxError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise PlanError(f"the layout's boxes cannot be read ({error}): {text[:120]!r}") from error


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
