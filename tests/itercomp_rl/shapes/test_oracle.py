"""The oracle passes what was drawn, fails what was not, and tells the aspects apart, on clean and corrupted images."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from itercomp_rl.shapes.oracle import Grade, grade, objects, off_palette
from itercomp_rl.shapes.render import BACKGROUND, PALETTE, SIZE, Placement, place, render
from itercomp_rl.shapes.scenes import COLOURS, NON_SPATIAL, RELATIONS, SHAPES, SPATIAL, SPLITS, Scene, Thing, World

RED_CIRCLE, BLUE_SQUARE = Thing("red", "circle"), Thing("blue", "square")
FAILED = Grade(score=0.0, passed=False)
Images = NDArray[np.uint8]


@cache
def drawn(freedom: float, seed: int = 0) -> tuple[list[Scene], Images]:
    """320 scenes, 40 of each relation, and a picture of each."""
    rng = np.random.default_rng(seed)
    scenes = [scene for split in SPLITS for scene in World().scenes(split)]
    chosen = [
        [scene for scene in scenes if scene.relation == relation][i]
        for relation in RELATIONS
        for i in rng.choice(len(scenes) // len(RELATIONS), 40, replace=False)
    ]
    return chosen, render(chosen, [place(scene, rng, freedom) for scene in chosen])


def wrong_attribute(scene: Scene, rng: np.random.Generator) -> tuple[str, Scene]:
    """A scene that differs in attribute only: shapes swapped, colours swapped, or one colour or shape changed."""
    first, second = scene.first, scene.second
    match int(rng.integers(4)):
        case 0:  # the same as to swap the colours and the places
            return "shapes swapped", replace(
                scene, first=replace(first, shape=second.shape), second=replace(second, shape=first.shape)
            )
        case 1:
            return "colours swapped", replace(
                scene, first=replace(first, colour=second.colour), second=replace(second, colour=first.colour)
            )
        case 2:
            new = str(rng.choice([colour for colour in COLOURS if colour not in (first.colour, second.colour)]))
            return "a colour changed", replace(scene, first=replace(first, colour=new))
        case _:
            new = str(rng.choice([shape for shape in SHAPES if shape != second.shape]))
            return "a shape changed", replace(scene, second=replace(second, shape=new))


def wrong_relation(scene: Scene, rng: np.random.Generator) -> tuple[str, Scene]:
    """A scene that differs in its relation only; `and` and the sides are apart: nothing non-spatial."""
    if scene.relation in SPATIAL and rng.integers(2):
        others = [relation for relation in SPATIAL if relation != scene.relation]
    else:
        others = [relation for relation in NON_SPATIAL if relation != scene.relation]
    if scene.relation == "inside":
        others.append("inside reversed")
    new = str(rng.choice(others))
    if new == "inside reversed":
        return f"inside as {new}", replace(scene, first=scene.second, second=scene.first)
    return f"{scene.relation} as {new}", replace(scene, relation=new)


def pass_rates(scenes: list[Scene], images: Images, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    """Share of passes by aspect, of the right prompts and of prompts wrong in exactly that aspect."""
    rng = np.random.default_rng(seed)
    right: dict[str, list[bool]] = defaultdict(list)
    wrong: dict[str, list[bool]] = defaultdict(list)
    for scene, image in zip(scenes, images, strict=True):
        for aspect, found in grade(image, scene).items():
            right[aspect].append(found.passed)
        what, other = wrong_attribute(scene, rng)
        wrong["attribute: " + what].append(grade(image, other)["attribute"].passed)
        what, other = wrong_relation(scene, rng)
        wrong[other.aspects[1]].append(grade(image, other)[other.aspects[1]].passed)
    assert set(right) == {"attribute", "spatial", "non_spatial"}
    assert len(wrong) == 6
    return rates_of(right), rates_of(wrong)


def rates_of(passes: dict[str, list[bool]]) -> dict[str, float]:
    return {name: float(np.mean(each)) for name, each in passes.items()}


def noisy(images: Images, rng: np.random.Generator) -> NDArray:
    return images + rng.normal(0, 12, images.shape)


def blurred(images: Images, rng: np.random.Generator) -> NDArray:
    return ndimage.gaussian_filter(images.astype(float), (0, 1, 1, 0))


def shifted(images: Images, rng: np.random.Generator) -> NDArray:
    return images + rng.uniform(-15, 15, (len(images), 1, 1, 3))


def halved(images: Images, rng: np.random.Generator) -> NDArray:
    half = images.reshape(len(images), SIZE // 2, 2, SIZE // 2, 2, 3).mean((2, 4))
    return half.repeat(2, axis=1).repeat(2, axis=2)


def everything(images: Images, rng: np.random.Generator) -> NDArray:
    return shifted(noisy(blurred(images, rng), rng), rng)


@pytest.mark.parametrize("freedom", [0.0, 1.0])
def test_on_rendered_scenes_right_prompts_pass_and_wrong_ones_fail(freedom: float) -> None:
    scenes, images = drawn(freedom)
    things = {thing for scene in scenes for thing in scene.combination}
    assert len(things) == len(COLOURS) * len(SHAPES)
    right, wrong = pass_rates(scenes, images)
    assert min(right.values()) >= 0.97, right
    assert max(wrong.values()) <= 0.03, wrong


@pytest.mark.parametrize("corrupted", [noisy, blurred, shifted, halved, everything])
def test_the_same_holds_of_mildly_corrupted_images(corrupted: Callable[[Images, np.random.Generator], NDArray]) -> None:
    (fixed, images), (free, more) = drawn(0.0), drawn(1.0)
    scenes, images = fixed[::4] + free[::2], np.concatenate([images[::4], more[::2]])
    bad = np.clip(np.round(corrupted(images, np.random.default_rng(0))), 0, 255).astype(np.uint8)
    right, wrong = pass_rates(scenes, bad)
    assert min(right.values()) >= 0.92, right
    assert max(wrong.values()) <= 0.05, wrong


def test_a_score_is_in_the_unit_range_and_above_half_about_when_passed() -> None:
    scenes, images = drawn(1.0)
    rng = np.random.default_rng(0)
    prompts = [*scenes, *(wrong_relation(scene, rng)[1] for scene in scenes)]
    blurry = np.round(blurred(images, rng)).astype(np.uint8)
    by_aspect = map(grade, [*images, *blurry], prompts)
    grades = [found for of_image in by_aspect for found in of_image.values()]
    assert all(0 <= found.score <= 1 for found in grades)
    assert np.mean([(found.score > 0.5) == found.passed for found in grades]) > 0.99
    assert {type(found.score) for found in grades} == {float}
    assert {type(found.passed) for found in grades} == {bool}


def test_a_grade_has_exactly_the_aspects_of_the_scene() -> None:
    scenes, images = drawn(0.0)
    for scene, image in zip(scenes[::8], images[::8], strict=True):
        assert tuple(grade(image, scene)) == scene.aspects


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_blank_image_has_nothing_of_a_scene(relation: str) -> None:
    scene = Scene(relation, RED_CIRCLE, BLUE_SQUARE)
    blank = np.broadcast_to(np.array(BACKGROUND, np.uint8), (SIZE, SIZE, 3))
    assert grade(blank, scene) == dict.fromkeys(scene.aspects, FAILED)
    assert objects(blank) == []


@pytest.mark.parametrize("smoothness", [0, 1, 2])
def test_noise_fails_attribute(smoothness: int) -> None:
    scenes, _ = drawn(0.0)
    raw = ndimage.gaussian_filter(
        np.random.default_rng(0).normal(size=(60, SIZE, SIZE, 3)), (0, smoothness, smoothness, 0)
    )
    images = np.clip(128 + 60 * raw / raw.std(), 0, 255).astype(np.uint8)
    assert not any(found["attribute"].passed for found in map(grade, images, scenes[:60]))


def test_one_object_alone_fails_everything_but_half_the_attribute_mean() -> None:
    scenes, _ = drawn(1.0)
    rng = np.random.default_rng(0)
    for scene in scenes[::8]:
        layout = place(scene, rng)
        nowhere = replace(layout, second=(-40.0, -40.0, 1.0))
        found = grade(render([replace(scene, relation="and")], [nowhere])[0], scene)
        assert not found["attribute"].passed
        assert 0.1 < found["attribute"].score <= 0.25  # the worse object 0, the mean at most half: (0 + .5) / 2
        assert all(found[aspect] == FAILED for aspect in scene.aspects[1:])


@pytest.mark.parametrize("colour", ["green", "red"])
def test_a_third_object_fails_attribute_and_leaves_the_relation(colour: str) -> None:
    scene = Scene("left", RED_CIRCLE, BLUE_SQUARE)
    image = render([scene], [place(scene, np.random.default_rng(0), freedom=0)])[0]
    before = grade(image, scene)
    image[1:6, 13:18] = PALETTE[colour]
    after = grade(image, scene)
    assert before["attribute"].passed
    assert not after["attribute"].passed
    assert after["attribute"].score < 0.1
    assert after["spatial"] == before["spatial"]


def test_the_spatial_grade_does_not_depend_on_the_shapes() -> None:
    scene = Scene("above", RED_CIRCLE, BLUE_SQUARE)
    swapped = Scene("above", Thing("red", "square"), Thing("blue", "circle"))
    layout = Placement((15.0, 8.0, 5.0), (17.0, 24.0, 5.5))
    image, other = render([scene, swapped], [layout, layout])
    assert grade(image, scene)["spatial"] == grade(image, swapped)["spatial"]
    assert grade(other, scene)["spatial"].score == pytest.approx(grade(image, scene)["spatial"].score, abs=0.02)
    assert not grade(image, swapped)["attribute"].passed


def test_relations_do_not_depend_on_the_shapes_asked_for_nor_attribute_on_the_relation() -> None:
    scenes, images = drawn(1.0)
    rng = np.random.default_rng(0)
    for scene, image in zip(scenes[::4], images[::4], strict=True):
        found = grade(image, scene)
        other = replace(scene, first=Thing(scene.first.colour, "cross"), second=Thing(scene.second.colour, "cross"))
        assert all(grade(image, other)[aspect] == found[aspect] for aspect in scene.aspects[1:])
        assert grade(image, wrong_relation(replace(scene, relation="and"), rng)[1])["attribute"] == found["attribute"]


# Squares of radius 2 / .9 reach 2 pixels from their centre: centred on whole numbers, they have no mixed edge.
SMALL = 2 / 0.9


def two_squares(relation: str, dx: float, dy: float) -> dict[str, Grade]:
    scene = Scene(relation, Thing("red", "square"), Thing("blue", "square"))
    return grade(render([scene], [Placement((9.0, 9.0, SMALL), (9.0 + dx, 9.0 + dy, SMALL))])[0], scene)


@pytest.mark.parametrize(
    ("dx", "dy", "expected"),
    [
        (12, 0, Grade(1.0, True)),
        (6, 0, Grade(0.75, True)),  # two pixels past the four that it takes: .5 + 2 / 8
        (8, 7, Grade(0.625, True)),  # one pixel more along than across: .5 + 1 / 8
        (8, 8, Grade(0.5, False)),
        (8, 11, Grade(0.125, False)),
        (-6, 0, Grade(0.0, False)),
        (0, 9, Grade(0.0, False)),
    ],
)
def test_the_spatial_score_is_the_hand_worked_one(dx: float, dy: float, expected: Grade) -> None:
    assert two_squares("left", dx, dy)["spatial"] == expected


@pytest.mark.parametrize("gap", range(12))
def test_two_squares_touch_up_to_two_pixels_and_are_tied_by_a_line_from_three_on(gap: int) -> None:
    touching, tied = two_squares("touching", 4 + gap, 0)["non_spatial"], two_squares("tied", 4 + gap, 0)["non_spatial"]
    assert touching.score == pytest.approx(max(1 - gap / 4.5, 0))
    assert touching.passed == (gap <= 2)
    assert tied.passed == (gap >= 3)


def test_without_a_line_nothing_is_tied() -> None:
    scene = Scene("and", Thing("red", "square"), Thing("blue", "square"))
    for gap in range(12):
        image = render([scene], [Placement((9.0, 9.0, SMALL), (13.0 + gap, 9.0, SMALL))])[0]
        assert not grade(image, replace(scene, relation="tied"))["non_spatial"].passed


def test_a_broken_line_does_not_tie() -> None:
    scene = Scene("tied", RED_CIRCLE, BLUE_SQUARE)
    image = render([scene], [Placement((7.0, 16.0, 5.0), (25.0, 16.0, 5.0))])[0]
    assert grade(image, scene)["non_spatial"].passed
    image[:, 15:18] = BACKGROUND
    assert not grade(image, scene)["non_spatial"].passed


@pytest.mark.parametrize("outer", SHAPES)
def test_inside_fades_as_the_inner_object_moves_out(outer: str) -> None:
    scene = Scene("inside", Thing("red", "circle"), Thing("blue", outer))
    steps = [Placement((16.0 + dx, 16.0, 4.0), (16.0, 16.0, 9.0)) for dx in (0, 3, 6, 9, 12)]
    found = [grade(image, scene)["non_spatial"] for image in render([scene] * 5, steps)]
    assert found[0] == Grade(1.0, True)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert not found[-1].passed


def test_a_cross_cut_in_four_by_what_lies_on_it_is_one_object() -> None:
    scene = Scene("inside", Thing("red", "circle"), Thing("blue", "cross"))
    image = render([scene], [Placement((16.0, 16.0, 5.6), (16.0, 16.0, 12.0))])[0]
    parts = np.zeros((SIZE, SIZE), int)
    ndimage.label(np.abs(image.astype(int) - PALETTE["blue"]).sum(-1) < 30, output=parts)
    assert parts.max() == 4
    assert [(found.colour, found.shape) for found in objects(image)] == [("blue", "cross"), ("red", "circle")]
    assert grade(image, scene)["attribute"].passed


def test_what_is_found_is_what_was_drawn() -> None:
    rng = np.random.default_rng(1)
    scenes, _ = drawn(1.0)
    layouts = [place(scene, rng) for scene in scenes]
    for scene, layout, image in zip(scenes, layouts, render(scenes, layouts), strict=True):
        found = {one.colour: one for one in objects(image)}
        assert set(found) == {scene.first.colour, scene.second.colour}
        for thing, (x, y, radius) in ((scene.first, layout.first), (scene.second, layout.second)):
            one = found[thing.colour]
            assert one.shape == thing.shape
            assert one.iou[one.shape] > 0.9
            assert one.area == one.mask.sum()
            # A triangle's centroid lies .27 radii below the middle; a neighbour may hide a little of the second object.
            sag = 0.27 * radius if thing.shape == "triangle" else 0
            assert np.hypot(one.centroid[0] - x, one.centroid[1] - y - sag) < 0.8
            assert abs(one.bbox[2] - one.bbox[0] - 2 * radius) < 3.5


def test_off_palette_counts_the_pixels_of_no_colour_of_the_world() -> None:
    scenes, images = drawn(1.0)
    assert max(off_palette(image) for image in images[::4]) < 0.01
    spoilt = render([scenes[0]], [Placement((-40.0, -40.0, 1.0), (-40.0, -40.0, 1.0))])[0]
    spoilt[4:12, 4:12] = (0, 255, 0)
    assert off_palette(spoilt) == 64 / SIZE**2


def test_a_mix_of_two_colours_is_an_artefact_unless_they_meet_there() -> None:
    green, yellow = (np.array(PALETTE[colour]) for colour in ("green", "yellow"))
    image = np.broadcast_to(np.array(BACKGROUND, np.uint8), (SIZE, SIZE, 3)).copy()
    image[8:24, 15:17] = (green + yellow) // 2
    assert off_palette(image) == 32 / SIZE**2
    image[8:24, 8:15], image[8:24, 17:24] = green, yellow
    assert off_palette(image) == 0


def test_noise_is_mostly_off_the_palette_and_mild_corruption_is_not() -> None:
    _, images = drawn(1.0)
    rng = np.random.default_rng(0)
    raw = ndimage.gaussian_filter(rng.normal(size=(20, SIZE, SIZE, 3)), (0, 2, 2, 0))
    noise = np.clip(128 + 60 * raw / raw.std(), 0, 255).astype(np.uint8)
    mild = np.clip(everything(images[:20], rng), 0, 255).astype(np.uint8)
    assert np.mean([off_palette(image) for image in noise]) > 0.4
    assert np.mean([off_palette(image) for image in mild]) < 0.01


def test_two_objects_of_one_colour_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="are red"):
        grade(np.zeros((SIZE, SIZE, 3), np.uint8), Scene("left", RED_CIRCLE, Thing("red", "square")))


@pytest.mark.parametrize("image", [np.zeros((SIZE, SIZE, 3)), np.zeros((3, SIZE, SIZE), np.uint8)])
def test_an_image_of_another_form_is_a_value_error(image: NDArray) -> None:
    with pytest.raises(ValueError, match="the oracle reads uint8"):
        grade(image, Scene("left", RED_CIRCLE, BLUE_SQUARE))
