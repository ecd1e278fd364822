"""Canvas programs are read and never run: what is not a canvas call with literals is refused with its line."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.planning.canvas import (
    AREAS,
    GRID,
    LOCATIONS,
    OFFSETS,
    Condition,
    parse_canvas,
    place,
    sub_prompts,
)

GLOBAL = "canvas.set_global_description(description='a cup left of a plate', HTML_web_color_name='white')\n"
LOCAL = (
    "canvas.add_local_description(location='on the left', offset='no offset', area='a small square area', "
    "distance_to_viewer={distance}, description={description})\n"
)


def program(distance: str = "1.0", description: str = "'a cup'", more: str = "") -> str:
    local = LOCAL.format(distance=distance, description=description)
    return f"```python\ncanvas = Canvas()\n{GLOBAL}{local}{more}```"


def test_a_program_becomes_a_canvas() -> None:
    canvas = parse_canvas("a prompt", program())
    assert canvas.description == "a cup left of a plate."
    assert canvas.colour == (255, 255, 255)
    assert [(part.description, part.rect, part.distance) for part in canvas.parts] == [
        ("a cup.", (20, 70, 0, 40), 1.0)  # centre (15, 45), 50 wide and high: x from -10, cut at 0
    ]


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "__import__('os').system('touch {mark}')",
        "open('{mark}', 'w').write('x')",
        "canvas.__class__.__init__.__globals__",
        "canvas.add_local_description(location=open('{mark}', 'w'))",
        "canvas = Canvas(open('{mark}', 'w'))",
        "exec('x = 1')",
        "while True: pass",
        "def f(): f()",
        "canvas.set_global_description(**{{'description': 'x'}})",
        "canvas.set_global_description(description=f'{{open}}')",
        "canvas.set_global_description(description='x' * 10**9)",
        "canvas.set_global_description(description=(lambda: 'x')())",
        "canvas.set_global_description('a', 'b', 'c', 'd', 'e')",
        "canvas.set_global_description(description='x', unknown='y')",
        "canvas.paint()",
        "other.set_global_description(description='x')",
        "x = [c for c in ().__class__.__base__.__subclasses__()]",
    ],
)
def test_a_hostile_program_is_refused_with_its_line_and_nothing_happens(line: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    hostile = line.format(mark=mark)
    with pytest.raises(PlanError) as refusal:
        parse_canvas("a prompt", program(more=hostile + "\n"))
    assert hostile[:40] in str(refusal.value)
    assert "line 4" in str(refusal.value)
    assert not mark.exists()


@pytest.mark.parametrize("distance", ["0", "-1", "'near'", "True", "1e999", f"1{'0' * 400}", "1 + 1", "None"])
def test_a_distance_that_is_no_number_above_zero_is_refused(distance: str) -> None:
    with pytest.raises(PlanError):
        parse_canvas("a prompt", program(distance=distance))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Sorry, no.",
        "x" * 70_000,
        "```python\n" + "(" * 5_000 + "\n```",
        "```python\n" + "-" * 20_000 + "1\n```",
        "```python\ncanvas = Canvas()\n```",
        "canvas.set_global_description(description='\x00')",
        program(description=r"'\ud800'"),
        "a" + ".b" * 15_000 + " = Canvas()",
        program(more=LOCAL.format(distance="1.0", description="'x'") * 30),
    ],
    ids=[
        "empty",
        "words",
        "long",
        "parentheses",
        "minus signs",
        "nothing said",
        "null byte",
        "half a character",
        "deep name",
        "31 parts",
    ],
)
def test_garbage_is_refused(answer: str) -> None:
    with pytest.raises(PlanError):
        parse_canvas("a prompt", answer)


@settings(max_examples=200, deadline=None)
@given(answer=st.text(max_size=200))
def test_any_text_is_read_or_refused_and_raises_nothing_else(answer: str) -> None:
    with pytest.raises(PlanError):  # no random text holds a global description
        parse_canvas("a prompt", answer)


def test_every_place_has_an_area_on_the_grid() -> None:
    for location in LOCATIONS:
        for offset in OFFSETS:
            for area in AREAS:
                top, bottom, left, right = place(location, offset, area)
                assert 0 <= top < bottom <= GRID
                assert 0 <= left < right <= GRID


def test_a_near_miss_of_a_name_is_understood_and_nonsense_is_not() -> None:
    assert place("left", "none offset", "small square") == place("on the left", "no offset", "a small square area")
    with pytest.raises(PlanError, match="qqqq"):
        place("qqqq", "no offset", "a small square area")


def words(text: str) -> int:
    return len(text.split())


def test_sub_prompts_fill_their_room_in_order_and_lose_no_suffix() -> None:
    condition = Condition(
        rect=(0, 90, 0, 90), prefixes=("a b.", "c."), suffixes=("d e.", "f g.", "h.", "i j k l m n o.")
    )
    # 3 words of prefix leave 5 of 8: "d e.", "f g." and "h." are 5; the last is longer and stands alone
    assert sub_prompts(condition, words, 8) == ["a b. c. d e. f g. h.", "a b. c. i j k l m n o."]


def test_prefixes_that_do_not_fit_together_leave_the_particular_one() -> None:
    condition = Condition(rect=(0, 90, 0, 90), prefixes=("a b c d.", "e f."), suffixes=())
    assert sub_prompts(condition, words, 6) == ["a b c d. e f."]
    assert sub_prompts(condition, words, 5) == ["e f."]


FENCED = program()
CODE = FENCED.removeprefix("```python\n").removesuffix("```")
DRAFT = FENCED.replace("a cup left of a plate", "a draft")


@pytest.mark.parametrize(
    "answer",
    [
        CODE,
        f"```\n{CODE}```",
        f"```py\n{CODE}```",
        f"~~~python\n{CODE}~~~",
        f"```python\n{CODE}",
        f"  ```Python\n  {CODE}  ```".replace("\ncanvas", "\n  canvas"),
        f"<think>\n{DRAFT}\nNo.</think>\n{FENCED}",
        f"{DRAFT}\nCorrected:\n{FENCED}",
        f"```python\n{DRAFT.removeprefix('```python').removesuffix('```')}{CODE}```",
        f"{FENCED}\nRun it with:\n```bash\npython plan.py\n```",
        FENCED.replace("='", "=‘").replace("',", "’,").replace("')", "’)"),
        FENCED.replace("'white'", "'#ffffff'"),
        FENCED.replace("'white'", "'#FFF'"),
    ],
)
def test_a_program_is_read_in_the_forms_that_chat_models_give_it(answer: str) -> None:
    canvas = parse_canvas("a prompt", answer)
    assert canvas.description == "a cup left of a plate."
    assert canvas.colour == (255, 255, 255)
    assert [part.description for part in canvas.parts] == ["a cup."]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (f"<think>{FENCED}", "ends within its thinking"),
        (
            f"{FENCED}\nAlso:\n```python\n{LOCAL.format(distance=1, description=repr('a fork'))}```",
            "no set_global_description",
        ),
        (program(more=GLOBAL), "two global descriptions"),
        (FENCED.replace("'white'", "'#ffff'"), "none of the canvas's words"),
        (f"```python\n{CODE}canvas.add_local_description(location='on", "is not Python"),
    ],
)
def test_a_program_that_is_not_complete_or_not_one_is_refused(answer: str, reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        parse_canvas("a prompt", answer)
