"""Laws of the scene language."""

import itertools

import numpy as np
import pytest

from itercomp_rl.shapes.scenes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SPLITS,
    TEMPLATES,
    Scene,
    Thing,
    World,
    caption,
    draw_scenes,
    parse,
    split_of,
    vocabulary,
)

RED_CIRCLE, BLUE_SQUARE = Thing("red", "circle"), Thing("blue", "square")


def every_scene() -> list[Scene]:
    return [scene for split in SPLITS for scene in World().scenes(split)]


def test_parse_undoes_caption_for_every_scene_and_template() -> None:
    for scene in every_scene():
        for template in range(len(TEMPLATES[scene.relation])):
            assert parse(caption(scene, template)) == scene


def test_no_two_scenes_share_a_caption() -> None:
    captions = [caption(scene, t) for scene in every_scene() for t in range(len(TEMPLATES[scene.relation]))]
    assert len(set(captions)) == len(captions)


def test_the_templates_of_a_relation_go_round() -> None:
    scene = Scene("left", RED_CIRCLE, BLUE_SQUARE)
    assert caption(scene) == "a red circle left of a blue square"
    assert caption(scene, len(TEMPLATES["left"])) == caption(scene, 0)


@pytest.mark.parametrize(
    "text",
    [
        "  A Red circle\tLEFT of the blue  square. ",
        "the red circle left of the blue square",
        "red circle left of a blue square",
    ],
)
def test_parse_forgives_case_spaces_articles_and_a_full_stop(text: str) -> None:
    assert parse(text) == Scene("left", RED_CIRCLE, BLUE_SQUARE)


def test_the_reversed_way_of_saying_inside_names_the_inner_object_first() -> None:
    assert parse("a blue square with a red circle inside") == Scene("inside", RED_CIRCLE, BLUE_SQUARE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        "a pink circle left of a blue square",
        "a red hexagon left of a blue square",
        "a red circle near a blue square",
        "a red circle left of a blue square and a green cross",
        "a red circle left a blue square",
    ],
)
def test_text_outside_the_language_is_a_value_error_that_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match="not of the embedded world") as error:
        parse(text)
    assert repr(text) in str(error.value)


def test_the_vocabulary_is_exactly_the_words_of_all_captions() -> None:
    words = {
        word
        for scene in every_scene()
        for t in range(len(TEMPLATES[scene.relation]))
        for word in caption(scene, t).split()
    }
    assert set(vocabulary()) == words
    assert vocabulary() == sorted(words)


def test_the_splits_are_disjoint_and_cover_every_combination() -> None:
    # 15 pairs of colours, 6 of shapes, 2 ways to match them: 180 unordered pairs of objects.
    parts = [World().combinations(split) for split in SPLITS]
    assert all(parts)
    assert sum(map(len, parts)) == 180
    assert len({pair for part in parts for pair in part}) == 180


def test_four_colours_and_three_shapes_split_into_27_3_and_6() -> None:
    world = World(colours=COLOURS[:4], shapes=SHAPES[:3])
    assert [len(world.combinations(split)) for split in SPLITS] == [27, 3, 6]


def test_the_split_of_a_pair_does_not_depend_on_its_order() -> None:
    things = [Thing(colour, shape) for colour in COLOURS for shape in SHAPES]
    for one, other in itertools.combinations(things, 2):
        assert split_of((one, other)) == split_of((other, one))
        assert Scene("and", one, other).combination == Scene("left", other, one).combination


def test_a_combination_keeps_its_split_in_a_smaller_world() -> None:
    whole, small = World(), World(colours=("cyan", "red", "blue"), shapes=("cross", "circle"))
    for split in SPLITS:
        assert set(small.combinations(split)) <= set(whole.combinations(split))
        reversed_words = World(colours=whole.colours[::-1], shapes=whole.shapes[::-1])
        assert reversed_words.combinations(split) == whole.combinations(split)


def test_the_scenes_of_a_split_are_each_combination_both_ways_under_every_relation() -> None:
    for split in SPLITS:
        scenes = World().scenes(split)
        assert len(scenes) == len(set(scenes)) == 2 * len(RELATIONS) * len(World().combinations(split))
        assert all(split_of((scene.first, scene.second)) == split for scene in scenes)


def test_the_objects_of_a_scene_differ_in_colour_and_shape() -> None:
    for scene in every_scene():
        assert scene.first.colour != scene.second.colour
        assert scene.first.shape != scene.second.shape


def test_the_relation_says_which_aspects_a_scene_has() -> None:
    by_relation = {relation: Scene(relation, RED_CIRCLE, BLUE_SQUARE).aspects for relation in RELATIONS}
    assert by_relation == {
        "and": ("attribute",),
        **dict.fromkeys(("left", "right", "above", "below"), ("attribute", "spatial")),
        **dict.fromkeys(("inside", "touching", "tied"), ("attribute", "non_spatial")),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"colours": ("red", "pink")}, "world.colours has 'pink'"),
        ({"shapes": ("circle", "star")}, "world.shapes has 'star'"),
        ({"relations": ("near",)}, "world.relations has 'near'"),
        ({"colours": ("red",)}, "two colours, two shapes and a relation"),
        ({"shapes": ("circle",)}, "two colours, two shapes and a relation"),
        ({"relations": ()}, "two colours, two shapes and a relation"),
    ],
)
def test_a_world_of_unknown_or_too_few_words_is_a_value_error(words: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        World(**words)


def test_drawn_scenes_repeat_with_their_seed_and_stay_in_their_split() -> None:
    world = World(relations=("left", "tied"))
    drawn = draw_scenes(world, "validation", 200, np.random.default_rng(3))
    assert drawn == draw_scenes(world, "validation", 200, np.random.default_rng(3))
    assert drawn != draw_scenes(world, "validation", 200, np.random.default_rng(4))
    assert set(drawn) <= set(world.scenes("validation"))
    assert {scene.relation for scene in drawn} == {"left", "tied"}


def test_drawn_scenes_put_either_object_first() -> None:
    drawn = draw_scenes(World(relations=("and",)), "test", 300, np.random.default_rng(0))
    ordered = sum(scene.combination == (scene.first, scene.second) for scene in drawn)
    assert 110 < ordered < 190  # 150 +- 4.6 standard deviations of 8.7
