"""Split ratios and regional prompts: cells tile the picture, and a planner's answer is read or refused."""

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.planning.layout import Box
from itercomp_rl.gallery.planning.regions import Regions, parse_regions, regions_of, split_cells

sizes = st.lists(st.floats(0.1, 9).map(lambda x: round(x, 2)), min_size=1, max_size=5)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(sizes, min_size=1, max_size=4))
def test_the_cells_of_any_ratio_tile_the_picture(rows: list[list[float]]) -> None:
    heights = [1.0] * len(rows)
    ratio = ";".join(",".join(map(str, [height, *row])) for height, row in zip(heights, rows, strict=True))
    if len(rows) == 1:
        ratio = ",".join(map(str, rows[0]))
    cells = [cell for row in split_cells(ratio) for cell in row]
    assert len(cells) == sum(len(row) for row in rows)
    covered = [[0] * 60 for _ in range(60)]
    for top, bottom, left, right in cells:
        for y in range(int(60 * top), int(60 * bottom)):
            for x in range(int(60 * left), int(60 * right)):
                covered[y][x] += 1
    assert all(count == 1 for row in covered for count in row)


def test_two_rows_give_heights_first() -> None:
    # heights 1 and 2 of 3; the first row has columns 2,1,1 of 4, the second 4,6 of 10
    assert split_cells("1,2,1,1;2,4,6") == [
        [(0.0, 1 / 3, 0.0, 0.5), (0.0, 1 / 3, 0.5, 0.75), (0.0, 1 / 3, 0.75, 1.0)],
        [(1 / 3, 1.0, 0.0, 0.4), (1 / 3, 1.0, 0.4, 1.0)],
    ]


@pytest.mark.parametrize("ratio", ["0,1", "-1,2", "1e999,1", "0;1"])
def test_sizes_that_are_not_above_zero_are_refused(ratio: str) -> None:
    with pytest.raises(PlanError, match="above 0"):
        split_cells(ratio)


def test_an_answer_in_the_form_asked_for_becomes_regions() -> None:
    answer = "Let me think.\n\nFinal split ratio: 1,2\n\nRegional Prompt: a red cup BREAK\ntwo white plates\n\nDone."
    plan = parse_regions("a red cup left of two white plates", answer)
    assert [(cell.phrase, cell.left, cell.right) for cell in plan.cells] == [
        ("a red cup", 0.0, 1 / 3),
        ("two white plates", 1 / 3, 1.0),
    ]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I am sorry, I cannot help with that.",
        "Final split ratio: 1,1",
        "Regional Prompt: a BREAK b",
        "Final split ratio: 0,1\n\nRegional Prompt: a BREAK b",
        "Final split ratio: 1,1\n\nRegional Prompt: a cup BREAK   ",
        "Final split ratio: 1,1\n\nRegional Prompt: " + "a cup " * 20_000,
    ],
)
def test_an_answer_without_a_plan_is_refused(answer: str) -> None:
    with pytest.raises(PlanError):
        parse_regions("a prompt", answer)


BOTH = "a red cup BREAK two white plates"


def rpg(ratio: str, text: str = BOTH) -> str:
    return f"Final split ratio: {ratio}\n\nRegional Prompt: {text}"


@pytest.mark.parametrize(
    "answer",
    [
        *(
            rpg(ratio)
            for ratio in (
                "1, 2",
                "1:2",
                "1 : 2",
                "33%,66%",
                "1，2",
                "１，２",
                '"1,2"',
                "[1, 2]",
                "`1,2`",
                "1,2.",
                "1,2;",
            )
        ),
        rpg("1,2 (the plates need more room)"),
        rpg("1,2", "a red cup\n\nBREAK\n\ntwo white plates"),
        rpg("1,2", "a red cup **BREAK** two white plates"),
        rpg("1,2", '"a red cup" BREAK "two white plates"'),
        rpg("1,2", "1. a red cup BREAK 2. two white plates"),
        rpg("1,2", "Region 1: a red cup BREAK Region 2: two white plates"),
        rpg("1,2", "a red cup BREAK two\nwhite plates"),
        rpg("1,2") + "\nNote: ask me for changes.",
        rpg("1,2") + "\n(The plates need more room.)",
        rpg("1,2") + "\n\nThe cup is on the left, as you asked.",
        rpg("1,2\r\n") + "\r\nNote: x",
        f"```\n{rpg('1,2')}\n```",
        f"```text\n{rpg('1,2')}\n```\nHere it is.",
        f"**Final split ratio: 1,2**\n\n**Regional Prompt: {BOTH}**",
        f"**Final split ratio:** 1,2\n\n**Regional Prompt:** {BOTH}",
        f"## Final split ratio\n\n1,2\n\n## Regional Prompts\n\n{BOTH}",
        f"Final split ratio：1，2\nRegional Prompts：{BOTH}",
        f"- Final split ratio (columns): 1,2\n- Regional Prompt: {BOTH}",
        f"“Final split ratio: 1,2”\n“Regional Prompt: {BOTH}”",
        f'{{"Final split ratio": "1,2", "Regional Prompt": "{BOTH}"}}',
        f"{rpg('1,1', 'x BREAK y')}\n\nCorrected:\n\n{rpg('1,2')}",
        f"<think>{rpg('1,1', 'x BREAK y')}</think>\n{rpg('1,2')}",
        f"{rpg('1,1', 'x BREAK y')} Wait.</think>\n{rpg('1,2')}",
        f"[THINK]{rpg('1,1', 'x BREAK y')}[/THINK]{rpg('1,2')}",
        f"<|channel|>analysis<|message|>{rpg('1,1')}<|end|><|channel|>final<|message|>{rpg('1,2')}<|return|>",
    ],
)
def test_a_plan_is_read_in_the_forms_that_chat_models_give_it(answer: str) -> None:
    plan = parse_regions("a red cup left of two white plates", answer)
    assert [(cell.phrase, cell.left, cell.right) for cell in plan.cells] == [
        ("a red cup", 0.0, pytest.approx(1 / 3)),
        ("two white plates", pytest.approx(1 / 3), 1.0),
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (rpg("1,2,1"), "more cells than there are regional prompts"),
        (rpg("1"), "fewer cells"),
        (rpg("1;" * 30_000), "more cells"),
        (rpg("1,2", BOTH + " BREAK"), "fewer cells"),
        (rpg("1 2"), "not of the form"),
        (rpg("1/3,2/3"), "not of the form"),
        (rpg("1,2 or 2,1"), "not of the form"),
        (rpg("1,x"), "not of the form"),
        (rpg("33%,67"), "mixes two forms"),
        (rpg("1:2,1", "a BREAK b BREAK c"), "mixes two forms"),
        (rpg("<ratio>"), "not of the form"),
        (rpg("1,2") + "\n\nFinal split ratio: 2,1", "another split ratio after"),
        (rpg("1,2", "a red cup\n\nIt is red.\n\nBREAK two white plates"), "several paragraphs"),
        (f"<think>Perhaps {rpg('2,1')}. But the cup is to be left, so", "ends within its thinking"),
        (f"{rpg('1,2')}\n<think>Is this", "ends within its thinking"),
        (f"<|channel|>analysis<|message|>{rpg('1,2')}", "ends within its thinking"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(answer: str, reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        parse_regions("a red cup left of two white plates", answer)


@pytest.mark.parametrize(
    "answer", [" " * 60_000, "\n" * 60_000, rpg("1" + " " * 60_000), rpg("1", "* " * 30_000), "<think>" * 9_000]
)
def test_no_answer_takes_long_to_refuse(answer: str) -> None:
    began = time.process_time()
    with contextlib.suppress(PlanError):
        parse_regions("p", answer)
    assert time.process_time() - began < 2.0


def test_regions_that_overlap_or_leave_gaps_are_refused() -> None:
    left = Box(phrase="a", left=0, top=0, right=0.5, bottom=1)
    for other in ((0.6, 1.0), (0.4, 0.9)):
        with pytest.raises(PlanError, match="do not tile"):
            Regions(prompt="p", cells=(left, Box(phrase="b", left=other[0], top=0, right=other[1], bottom=1)))


def test_more_than_thirty_regions_are_refused() -> None:
    with pytest.raises(PlanError, match="31 regions"):
        regions_of("p", ",".join("1" * 31), ["x"] * 31)
