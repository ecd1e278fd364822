"""A language model's layout is read as boxes within the picture, or refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.planning.layout_text import fit, parse_layout

GOOD = "Objects: [('a cup', [0, 128, 256, 256])]\nBackground prompt: a table\nNegative prompt: None"


def test_an_answer_becomes_boxes_in_shares_of_the_picture() -> None:
    layout = parse_layout("a cup", GOOD)
    assert layout.background == "a table"
    box = layout.boxes[0]
    assert (box.phrase, box.left, box.top, box.right, box.bottom) == ("a cup", 0.0, 0.25, 0.5, 0.75)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "no boxes",
        "[]\nBackground prompt: a wall",
        "[('a cup', [0, 0, 0, 9])]\nBackground prompt: zero area",
        "[(cup, [0, 0, 9, 9])]\nBackground prompt: a name",
        "[('a cup', [0, 0, 9])]\nBackground prompt: three numbers",
        "[__import__('os').system('x')]\nBackground prompt: hostile",
        "[('a cup', [0, 0, 9, 9])]\nBackground prompt: a\nBackground prompt: b",
        str([("a cup", [i, 0, 9, 9]) for i in range(31)]) + "\nBackground prompt: 31 boxes",
        "[" * 5_000 + "\nBackground prompt: deep",
        "[('a cup', [0, 0, 1e999, 9])]\nBackground prompt: endless",
        "[('a cup', ['nan', 0, 9, 9])]\nBackground prompt: nowhere",
        f"[('a cup', [1{'0' * 400}, 0, 9, 9])]\nBackground prompt: beyond any float",
        "[('a cup', {0, 1, 8, 9})]\nBackground prompt: a set has no order",
        r"[('a \ud800', [0, 0, 9, 9])]" + "\nBackground prompt: half a character",
    ],
)
def test_an_answer_without_a_layout_is_refused(answer: str) -> None:
    with pytest.raises(PlanError):
        parse_layout("a cup", answer)


numbers = st.integers(-300, 800)


@settings(max_examples=100, deadline=None)
@given(boxes=st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=5))
def test_fitted_boxes_lie_in_the_picture(boxes: list[tuple[int, int, int, int]]) -> None:
    for _, (x, y, width, height) in fit([("a thing", box) for box in boxes]):
        assert min(x, y) >= 0
        assert max(x + width, y + height) <= 513  # corners and sizes are rounded apart
        assert min(width, height) > 0
