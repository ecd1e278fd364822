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
        "[('a cup', [550, 390, 390, 350])]\nBackground prompt: a grid of 1000",
        "[('a cup', [600, 10, 30, 30]), ('b', [0, 0, 9, 9])]\nBackground prompt: outside",
        "[('a cup', [0.1, 0.1, 0.4, 0.5])]\nBackground prompt: shares",
        "[('a cup', [10, 10, 50, 50]), ('b', [9, 9, 0, 9])]\nBackground prompt: one without area",
        "Objects: [('a', [0, 0, 9, 9])]\nObjects: [('b', [0, 0, 9, 9])]\nBackground prompt: the first is not complete",
        GOOD + "\nObjects: [('b', [0, 0, 9, 9])]",
        "<think>" + GOOD,
        r"[('a \ud800', [0, 0, 9, 9])]" + "\nBackground prompt: half a character",
    ],
)
def test_an_answer_without_a_layout_is_refused(answer: str) -> None:
    with pytest.raises(PlanError):
        parse_layout("a cup", answer)


LIST = "[('a cup', [0, 128, 256, 256])]"
DRAFT = "Objects: [('x', [1, 2, 3, 4])]\nBackground prompt: y\nNegative prompt:"


@pytest.mark.parametrize(
    "answer",
    [
        f"{LIST}\nBackground prompt: a table",
        f"Objects: {LIST}\nBackground prompt: a table\n\nThe cup is on the left, as you asked.",
        f"Objects: {LIST}\nBackground prompt: a table\nNote: ask me for changes.",
        f"Objects: {LIST}\nBackground prompt:\na table\nNegative prompt:",
        f"**Objects:** {LIST}\n**Background prompt:** a table\n**Negative prompt:** None",
        f"## Objects\n```python\n{LIST}\n```\n## Background prompt\na table",
        f"```\nObjects: {LIST}\nBackground prompt: a table\n```",
        f'Objects: {LIST}\nBackground prompt: "a table"\nNegative prompt: ""',
        "Objects：［（‘a cup’，［0，128，256，256］）］\nBackground prompt：a table\nNegative prompt：",
        '{"Objects": [["a cup", [0, 128, 256, 256]]], "Background prompt": "a table", "Negative prompt": ""}',
        f"The objects: a cup.\nObjects: {LIST}\nBackground prompt: a table",
        f"{DRAFT}\n\nCorrected:\n{GOOD}",
        f"<think>{DRAFT}</think>{GOOD}",
        GOOD.replace("[0, 128, 256, 256]", "[-0.4, 128, 256, 256]"),
    ],
)
def test_a_layout_is_read_in_the_forms_that_chat_models_give_it(answer: str) -> None:
    layout = parse_layout("a cup", answer)
    assert layout.background == "a table"
    [box] = layout.boxes
    found = (box.left, box.top, box.right, box.bottom)
    assert box.phrase == "a cup" and found == pytest.approx((0.0, 0.25, 0.5, 0.75), abs=0.01)


def test_a_box_may_leave_the_picture_by_a_few_pixels() -> None:
    layout = parse_layout("a cup", GOOD.replace("[0, 128, 256, 256]", "[260, -3, 256, 256]"))
    box = layout.boxes[0]
    assert (box.left, box.top, box.right, box.bottom) == (260 / 512, 0.0, 1.0, 253 / 512)


numbers = st.integers(-300, 800)


@settings(max_examples=100, deadline=None)
@given(boxes=st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=5))
def test_fitted_boxes_lie_in_the_picture(boxes: list[tuple[int, int, int, int]]) -> None:
    for _, (x, y, width, height) in fit([("a thing", box) for box in boxes]):
        assert min(x, y) >= 0
        assert max(x + width, y + height) <= 513  # corners and sizes are rounded apart
        assert min(width, height) > 0
