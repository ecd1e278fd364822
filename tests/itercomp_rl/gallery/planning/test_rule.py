"""The rule planner puts what a prompt names where the prompt says, for every form of plan and any text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itercomp_rl.evaluation.t2i_compbench.files import read_prompts
from itercomp_rl.gallery.planning import rule
from itercomp_rl.gallery.planning.layout import Box
from itercomp_rl.gallery.planning.objects import parse_prompt
from itercomp_rl.prompt_sets.compbench import BENCHMARK
from itercomp_rl.shapes.scenes import RELATIONS, SPATIAL, TEMPLATES


def middle(box: Box) -> tuple[float, float]:
    return (box.left + box.right) / 2, (box.top + box.bottom) / 2


def stands(kind: str, a: tuple[float, float], b: tuple[float, float]) -> bool:
    return {"left": a[0] < b[0], "right": a[0] > b[0], "above": a[1] < b[1], "below": a[1] > b[1]}[kind]


@pytest.mark.parametrize("relation", SPATIAL)
def test_every_way_of_saying_a_side_is_planned_on_that_side(relation: str) -> None:
    for way in TEMPLATES[relation]:
        prompt = way.format(a="red circle", b="blue square")
        cells = {cell.phrase: middle(cell) for cell in rule.regions(prompt).cells}
        boxes = {box.phrase: middle(box) for box in rule.layout(prompt).boxes}
        parts = {part.description: part.rect for part in rule.canvas(prompt).parts}
        rects = {name: (left + right, top + bottom) for name, (top, bottom, left, right) in parts.items()}
        for found in (cells, boxes):
            assert stands(relation, found["a red circle"], found["a blue square"]), prompt
        assert stands(relation, rects["a red circle."], rects["a blue square."]), prompt


@pytest.mark.parametrize("relation", RELATIONS)
def test_both_objects_of_a_scene_are_in_every_plan(relation: str) -> None:
    for way in TEMPLATES[relation]:
        prompt = way.format(a="red circle", b="blue square")
        for phrases in (
            {cell.phrase for cell in rule.regions(prompt).cells},
            {box.phrase for box in rule.layout(prompt).boxes},
            {part.description.rstrip(".") for part in rule.canvas(prompt).parts},
        ):
            assert phrases == {"a red circle", "a blue square"}, prompt


def test_what_is_inside_lies_within_what_is_around_it() -> None:
    for way in TEMPLATES["inside"]:
        boxes = {box.phrase: box for box in rule.layout(way.format(a="red circle", b="blue square")).boxes}
        inner, outer = boxes["a red circle"], boxes["a blue square"]
        assert outer.left < inner.left and inner.right < outer.right
        assert outer.top < inner.top and inner.bottom < outer.bottom


def test_what_is_hidden_is_farther_away_and_drawn_first() -> None:
    canvas = rule.canvas("a vase hidden by a candle")
    assert [part.description for part in canvas.far_first] == ["a vase.", "a candle."]


def test_counted_things_get_as_many_boxes() -> None:
    phrases = [box.phrase for box in rule.layout("three red cups and two dogs").boxes]
    assert phrases == ["red cups"] * 3 + ["dogs"] * 2


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("a red apple and a green train", ["a red apple", "a green train"]),
        ("The fluffy cat is on the left of the soft pillow.", ["fluffy cat", "soft pillow"]),
        (
            "The striped black and white cat lay next to the grey blanket.",
            ["striped black and white cat", "grey blanket"],
        ),
        ("rubber gloves and a metallic knife", ["rubber gloves", "a metallic knife"]),
        ("A person is wearing gloves and holding a snowball.", ["A person", "gloves", "a snowball"]),
        ("two sinks and one helicopter", ["two sinks", "one helicopter"]),
        ("The spicy curry simmered on the hot stove", ["spicy curry", "hot stove"]),
        ("a bee on on the left of a clock", ["a bee", "a clock"]),
        ("six girls", ["six girls"]),
    ],
)
def test_the_objects_of_a_benchmark_prompt_are_found(prompt: str, phrases: list[str]) -> None:
    assert [item.phrase for item in parse_prompt(prompt).objects] == phrases


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("a key on the left of a dog", "left"),
        ("a cup on the bottom of a girl", "below"),
        ("a airplane on the top of a horse", "above"),
        ("a horse on side of a bicycle", "near"),
        ("a frog near a refrigerator", "near"),
        ("a car behind a candle", "behind"),
        ("a man hidden by a computer", "behind"),
        ("a pig in front of a frog", "front"),
        ("a red hat on top of a brown rack", "above"),
    ],
)
def test_the_relation_of_a_benchmark_prompt_is_read(prompt: str, kind: str) -> None:
    found = parse_prompt(prompt)
    assert [(relation.first, relation.kind, relation.second) for relation in found.relations] == [(0, kind, 1)]


KINDS = {
    "on the left of": "left",
    "on the right of": "right",
    "on the top of": "above",
    "on the bottom of": "below",
    "on side of": "near",
    "next to": "near",
    "near": "near",
    "in front of": "front",
    "behind": "behind",
    "hidden by": "behind",
}


@pytest.mark.parametrize("category", ["spatial", "3d_spatial"])
def test_the_relation_and_both_objects_of_every_spatial_prompt_of_the_benchmark_are_read(category: str) -> None:
    for prompt in read_prompts(BENCHMARK, category):
        words = next(words for words in KINDS if f" {words} " in prompt)
        first, second = prompt.rstrip(".").split(f" {words} ")
        found = parse_prompt(prompt)
        assert [item.noun for item in found.objects] == [first.split()[-1], second.split()[-1]], prompt
        assert [(r.first, r.kind, r.second) for r in found.relations] == [(0, KINDS[words], 1)], prompt


@settings(max_examples=150, deadline=None)
@given(prompt=st.text(max_size=120))
def test_any_text_has_a_plan_of_every_form(prompt: str) -> None:
    rule.regions(prompt), rule.layout(prompt), rule.canvas(prompt)


@pytest.mark.parametrize(
    "prompt",
    ["", " ", "/", "a/b\n\nc", "word " * 500, "9" * 5000 + " cups", "a cup and " * 250, "twelve cups and twelve dogs"],
)
def test_awkward_prompts_have_plans_of_every_form(prompt: str) -> None:
    assert rule.regions(prompt).cells
    assert 1 <= len(rule.layout(prompt).boxes) <= 30
    assert rule.canvas(prompt).prompt == prompt
