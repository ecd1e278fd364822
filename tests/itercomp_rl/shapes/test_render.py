"""Laws of the renderer."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from itercomp_rl.shapes.render import (
    BACKGROUND,
    LINE,
    PALETTE,
    SIZE,
    Placement,
    place,
    render,
    shape_distance,
)
from itercomp_rl.shapes.scenes import RELATIONS, SHAPES, SPATIAL, SPLITS, Scene, Thing, World

RED_CIRCLE, BLUE_SQUARE = Thing("red", "circle"), Thing("blue", "square")
EVERY_SCENE = [scene for split in SPLITS for scene in World().scenes(split)]


def some_scenes(seed: int, num: int = 200) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [EVERY_SCENE[i] for i in rng.choice(len(EVERY_SCENE), num, replace=False)]


def places(scenes: list[Scene], seed: int, freedom: float = 1.0) -> list[Placement]:
    rng = np.random.default_rng(seed)
    return [place(scene, rng, freedom) for scene in scenes]


def distances(scene: Scene, layout: Placement) -> tuple[NDArray, NDArray]:
    """Signed distances [SIZE, SIZE] of every pixel's centre from the edges of the first and the second object."""
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    first, second = (
        shape_distance(thing.shape, x - place_x, y - place_y, radius)
        for thing, (place_x, place_y, radius) in ((scene.first, layout.first), (scene.second, layout.second))
    )
    return first, second


def test_a_seed_fixes_the_layout_and_the_pixels() -> None:
    scenes = some_scenes(0)
    layouts = places(scenes, seed=7)
    assert layouts == places(scenes, seed=7)
    assert layouts != places(scenes, seed=8)
    assert np.array_equal(render(scenes, layouts), render(scenes, layouts))


def test_an_image_does_not_depend_on_its_batch() -> None:
    scenes = some_scenes(1, num=20)
    layouts = places(scenes, seed=1)
    alone = [render([scene], [layout])[0] for scene, layout in zip(scenes, layouts, strict=True)]
    assert np.array_equal(render(scenes, layouts), np.stack(alone))


@pytest.mark.parametrize("relation", ["inside", *SPATIAL])
def test_without_freedom_a_scene_has_one_picture(relation: str) -> None:
    scene = Scene(relation, RED_CIRCLE, BLUE_SQUARE)
    assert len({place(scene, np.random.default_rng(seed), freedom=0) for seed in range(20)}) == 1


@pytest.mark.parametrize("relation", ["and", "touching", "tied"])
def test_without_freedom_a_scene_without_sides_has_at_most_a_picture_a_side(relation: str) -> None:
    scene = Scene(relation, RED_CIRCLE, BLUE_SQUARE)
    assert len({place(scene, np.random.default_rng(seed), freedom=0) for seed in range(20)}) <= 4


def test_images_are_bytes_of_the_documented_shape() -> None:
    scenes = some_scenes(2, num=5)
    images = render(scenes, places(scenes, seed=2))
    assert images.dtype == np.uint8
    assert images.shape == (5, SIZE, SIZE, 3)


def test_every_object_stays_within_the_frame() -> None:
    # Half a pixel is where a shape's cover of the first pixel outside would begin to show.
    outside = np.array([(x, y) for x in range(-2, SIZE + 2) for y in range(-2, SIZE + 2)]) + 0.5
    outside = outside[((outside < 0) | (outside > SIZE)).any(1)]
    for scene, layout in zip(EVERY_SCENE, places(EVERY_SCENE, seed=3), strict=True):
        for thing, (x, y, radius) in ((scene.first, layout.first), (scene.second, layout.second)):
            distance = shape_distance(thing.shape, outside[:, 0] - x, outside[:, 1] - y, radius)
            assert distance.min() > -0.5, (scene, layout)


def test_pixels_are_pure_but_for_the_anti_aliased_edges() -> None:
    scenes = [scene for scene in some_scenes(4) if scene.relation != "tied"]
    layouts = places(scenes, seed=4)
    for scene, layout, image in zip(scenes, layouts, render(scenes, layouts), strict=True):
        first, second = distances(scene, layout)
        assert (image[first <= -0.5] == PALETTE[scene.first.colour]).all()
        assert (image[(second <= -0.5) & (first >= 0.5)] == PALETTE[scene.second.colour]).all()
        assert (image[(first >= 0.5) & (second >= 0.5)] == BACKGROUND).all()


def test_an_edge_pixel_is_the_mix_of_what_meets_there() -> None:
    # A square of radius 5 at (16, 16) ends at x = 20.5: the pixel from 20 to 21 is half red.
    scene = Scene("and", Thing("red", "square"), Thing("blue", "circle"))
    image = render([scene], [Placement((16.0, 16.0, 5.0), (3.0, 3.0, 1.0))])[0]
    assert tuple(image[16, 19]) == PALETTE["red"]
    assert np.allclose(image[16, 20], (np.array(PALETTE["red"]) + BACKGROUND) / 2, atol=0.5)
    assert tuple(image[16, 21]) == BACKGROUND


def test_the_first_object_lies_on_top() -> None:
    scene = Scene("inside", RED_CIRCLE, BLUE_SQUARE)
    image = render([scene], [Placement((16.0, 16.0, 4.0), (16.0, 16.0, 12.0))])[0]
    assert tuple(image[16, 16]) == PALETTE["red"]
    assert tuple(image[16, 6]) == PALETTE["blue"]


def test_only_tied_scenes_have_a_line() -> None:
    for relation in RELATIONS:
        scene = Scene(relation, RED_CIRCLE, BLUE_SQUARE)
        image = render([scene], [Placement((7.0, 16.0, 5.0), (25.0, 16.0, 5.0))])[0]
        dark = np.abs(image.astype(int) - LINE).sum(-1) < 60
        assert dark.any() == (relation == "tied")
        assert set(np.nonzero(dark)[0]) <= {15, 16}


@pytest.mark.parametrize(
    ("relation", "axis", "sign"), [("left", 0, 1), ("right", 0, -1), ("above", 1, 1), ("below", 1, -1)]
)
def test_spatial_layouts_put_the_first_object_on_its_side(relation: str, axis: int, sign: int) -> None:
    scene = Scene(relation, RED_CIRCLE, BLUE_SQUARE)
    for seed in range(50):
        layout = place(scene, np.random.default_rng(seed))
        apart = np.array(layout.second[:2]) - layout.first[:2]
        assert sign * apart[axis] > 10
        assert abs(apart[1 - axis]) < 5


def test_objects_touch_or_keep_their_distance_as_the_relation_says() -> None:
    for scene, layout in zip(EVERY_SCENE, places(EVERY_SCENE, seed=5), strict=True):
        first, second = (distance < 0 for distance in distances(scene, layout))
        gap = np.asarray(distance_transform_edt(~first))[second].min() - 1  # pixels between the two
        if scene.relation == "touching":
            assert gap <= 1, scene
            assert (first & second).sum() < 0.2 * first.sum(), scene
        elif scene.relation == "inside":
            assert first.sum() < second.sum(), scene
            assert scene.second.shape == "cross" or (first & second).sum() > 0.9 * first.sum(), scene
        else:
            assert gap >= 2, scene


@pytest.mark.parametrize("shape", SHAPES)
def test_the_distance_of_a_shape_is_negative_inside_and_never_steeper_than_one(shape: str) -> None:
    x, y = np.meshgrid(np.linspace(-12, 12, 97), np.linspace(-12, 12, 97))
    distance = shape_distance(shape, x, y, 6.0)
    assert distance[48, 48] < 0 < min(distance[0, 0], distance[0, -1], distance[-1, 0], distance[-1, -1])
    assert max(np.abs(np.diff(distance, axis=axis)).max() for axis in (0, 1)) <= 0.25 + 1e-9
    assert np.allclose(distance, distance[:, ::-1])  # every shape is the same left and right


def test_shapes_of_one_radius_differ() -> None:
    x, y = np.meshgrid(np.arange(SIZE) - 15.5, np.arange(SIZE) - 15.5)
    inside = [shape_distance(shape, x, y, 6.0) < 0 for shape in SHAPES]
    for one, other in itertools.combinations(inside, 2):
        assert (one & other).sum() / (one | other).sum() < 0.9


def test_an_unknown_shape_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="'star' is unknown"):
        shape_distance("star", np.zeros(1), np.zeros(1), 1.0)
