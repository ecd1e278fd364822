"""A prompt is parsed into statements that an aspect's questions are made of."""

import json

import pytest

from itercomp_rl.errors import PlanError
from itercomp_rl.judges.vlm.atoms import KINDS_OF_ASPECT, Atom, atoms_by_rule, atoms_of_answer
from itercomp_rl.judges.vlm.questions import by_aspect, question_of
from itercomp_rl.prompt_sets.compbench import BENCHMARK
from itercomp_rl.shapes.scenes import TEMPLATES, World, caption, parse

ASPECTS = tuple(KINDS_OF_ASPECT)


def texts(prompt: str, kind: str) -> list[str]:
    return [atom.text for atom in atoms_by_rule(prompt) if atom.kind == kind]


@pytest.mark.parametrize("relation", TEMPLATES)
def test_every_prompt_of_the_embedded_world_has_atoms_for_what_it_is_about(relation: str) -> None:
    for scene in World(relations=(relation,)).scenes("test"):
        for way in range(len(TEMPLATES[relation])):
            text = caption(scene, way)
            found = by_aspect(atoms_by_rule(text), scene.aspects)
            assert set(found) == set(scene.aspects), text
            assert sorted(atom.text for atom in found["attribute"]) == sorted(f"a {t}" for t in scene.combination)
            # The statements of the other aspects mean the very scene.
            for aspect in scene.aspects[1:]:
                assert [parse(atom.text) for atom in found[aspect]] == [scene]


def test_every_prompt_of_the_benchmark_can_be_judged_on_what_its_category_tests() -> None:
    aspect_of = {"color": 0, "shape": 0, "texture": 0, "spatial": 1, "3d_spatial": 1, "numeracy": 1, "non_spatial": 2}
    for category, index in aspect_of.items():
        for prompt in (BENCHMARK / f"{category}_val.txt").read_text(encoding="utf-8").splitlines():
            assert by_aspect(atoms_by_rule(prompt), [ASPECTS[index]]), prompt


def test_an_object_is_asked_about_together_with_its_attributes() -> None:
    assert texts("a small red cup and a dog", "attribute") == ["a small red cup"]
    assert texts("a small red cup and a dog", "object") == ["a dog"]


def test_numbers_are_counted_and_relations_keep_their_direction() -> None:
    prompt = "three red cups to the right of one dog"
    assert texts(prompt, "count") == ["three red cups", "one dog"]
    assert texts(prompt, "attribute") == ["red cups"]
    assert texts(prompt, "relation") == ["three red cups to the right of one dog"]
    assert question_of(Atom(kind="count", text="three red cups")) == (
        "Does this picture show exactly three red cups, no more and no fewer?"
    )


def test_what_happens_is_asked_as_the_whole_sentence_and_mere_things_do_nothing() -> None:
    assert texts("A painter is adding blue to a picture.", "action") == ["A painter is adding blue to a picture"]
    assert texts("a red cup on top of a white plate", "action") == []
    assert texts("a red cup and a white plate", "action") == []
    assert texts("", "action") == []


def test_no_statement_is_asked_twice_and_an_aspect_has_only_its_own() -> None:
    for prompt in (
        "a red cup and a red cup",
        "two dogs behind a cat chase a ball",
        "a picture of a box with a cat inside",
    ):
        atoms = atoms_by_rule(prompt)
        assert len(set(atoms)) == len(atoms)
        found = by_aspect(atoms, ASPECTS)
        assert sum(map(len, found.values())) == len(atoms)
        for aspect, own in found.items():
            assert {atom.kind for atom in own} <= set(KINDS_OF_ASPECT[aspect])


def test_a_models_list_is_read_after_its_reasoning_and_out_of_its_fence() -> None:
    tree = {"objects": ["a dog"], "attributes": ["a red  cup."], "relations": ["a dog left of a red cup"]}
    answer = f"<think>{{what now}}</think>Here it is:\n```json\n{json.dumps(tree)}\n```"
    assert atoms_of_answer(answer) == (
        Atom(kind="object", text="a dog"),
        Atom(kind="attribute", text="a red cup"),
        Atom(kind="relation", text="a dog left of a red cup"),
    )


@pytest.mark.parametrize(
    "answer",
    [
        "a dog and a cup",
        '{"objects": ["a dog"',
        '["a dog"]',
        '{"objects": "a dog"}',
        '{"objects": [["a dog"]]}',
        '{"objects": []}',
        '{"things": ["a dog"]}',
        '{"objects": ["' + "x" * 301 + '"]}',
        '{"objects": ["a dog\\u0007"]}',
        '{"objects": [' + '"a dog", ' * 30 + '"a cat"]}',
        "<think>a dog",
        '{"a":' * 5000,
        '__import__("os")',
    ],
)
def test_any_other_answer_is_refused(answer: str) -> None:
    with pytest.raises(PlanError):
        atoms_of_answer(answer)
