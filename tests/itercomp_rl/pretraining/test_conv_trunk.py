"""What the convolutional trunk is asked in its pretraining is really wrong where it is called wrong."""

import numpy as np
import pytest
import torch

from itercomp_rl.pretraining.conv_trunk import clean_and_spoilt
from itercomp_rl.pretraining.lessons import composition, objects_alone, wrong_captions, wrong_relations
from itercomp_rl.pretraining.trunk import CaptionTable
from itercomp_rl.shapes.models import make_tokenizer
from itercomp_rl.shapes.oracle import grade
from itercomp_rl.shapes.render import place, render
from itercomp_rl.shapes.scenes import RELATIONS, Scene, Thing, World, draw_scenes, split_of

RED, BLUE = Thing("red", "circle"), Thing("blue", "square")


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_picture_shows_none_of_its_wrong_relations(relation: str) -> None:
    rng = np.random.default_rng(0)
    scene = Scene(relation, RED, BLUE)
    pixels = render([scene] * 40, [place(scene, rng) for _ in range(40)])
    for other in set(wrong_relations(scene)):
        passed = [grade(image, other)[other.aspects[-1]].passed for image in pixels]
        assert np.mean(passed) <= 0.03, f"{other} under {scene}"


@pytest.mark.parametrize("relation", ["and", "left", "right", "above", "below"])
def test_two_things_apart_are_asked_whether_they_are_tied(relation: str) -> None:
    assert Scene("tied", RED, BLUE) in wrong_relations(Scene(relation, RED, BLUE))


def test_wrong_captions_are_wrong_and_of_their_own_split() -> None:
    table = CaptionTable("test", make_tokenizer())
    wrong = wrong_captions(table, np.random.default_rng(0))
    for row, scene in enumerate(table.scenes):
        for other in (table.scenes[i] for i in wrong["relation"][row].tolist()):
            assert {other.first, other.second} == {scene.first, scene.second}
            assert other != scene
        for other in (table.scenes[i] for i in wrong["attribute"][row].tolist()):
            assert other != scene
            assert split_of(other.combination) == "test"


def test_a_spoilt_picture_is_worse_than_its_clean_one() -> None:
    rng = np.random.default_rng(1)
    scenes = draw_scenes(World(), "train", 200, rng)
    lessons = composition(CaptionTable("train", make_tokenizer()), np.random.default_rng(0))
    clean, spoilt = clean_and_spoilt(scenes, lessons, rng, torch.Generator().manual_seed(0))
    assert clean.shape == spoilt.shape == (200, 3, 32, 32)
    assert float(spoilt.min()) >= 0
    assert float(spoilt.max()) <= 1
    assert ((clean - spoilt).abs().flatten(1).amax(1) > 0.05).float().mean() > 0.9
    as_pixels = [(part.permute(0, 2, 3, 1) * 255).round().byte().numpy() for part in (clean, spoilt)]
    scores = [
        [min(g.score for g in grade(image, scene).values()) for image, scene in zip(part, scenes, strict=True)]
        for part in as_pixels
    ]
    clean_scores, spoilt_scores = np.array(scores)
    assert clean_scores.mean() > 0.95
    assert spoilt_scores.mean() < 0.6
    assert (spoilt_scores < clean_scores + 0.02).all()


def colours_and_shapes(scene: Scene) -> tuple[frozenset[str], frozenset[str]]:
    things = (scene.first, scene.second)
    return frozenset(thing.colour for thing in things), frozenset(thing.shape for thing in things)


def test_lessons_on_objects_say_nothing_of_binding_places_and_relations() -> None:
    """Each other binding, order and relation of the same objects is as right as the scene's own caption."""
    table, rng = CaptionTable("train", make_tokenizer()), np.random.default_rng(0)
    lessons = objects_alone(table, rng)
    assert list(lessons.wrong) == ["objects"]
    for row in range(0, len(table.scenes), 37):
        scene = table.scenes[row]
        right = {table.scenes[other] for other in lessons.right[row].tolist()}
        assert right == {other for other in table.scenes if colours_and_shapes(other) == colours_and_shapes(scene)}
        assert {other.relation for other in right} == set(RELATIONS)
        for other in lessons.wrong["objects"][row].tolist():
            assert colours_and_shapes(table.scenes[other]) != colours_and_shapes(scene)
        ((blended, is_whole),) = lessons.others([scene], rng)
        assert colours_and_shapes(blended) != colours_and_shapes(scene)
        assert (blended.relation, is_whole) == (scene.relation, False)
