"""What the shipped convolutional trunks know of pictures: one composition too, the other objects alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.reward.checkpoint import load_reward
from itercomp_rl.shapes.render import place, render
from itercomp_rl.shapes.scenes import Scene, World, caption, draw_scenes, one_aspect_wrong

NUM = 400


def accuracy(name: str, pairs: list[tuple[Scene, Scene]]) -> float:
    """Share of renders of the first scene whose caption scores above that of the second."""
    rng = np.random.default_rng(1)
    model = load_reward(Path(checkpoint_path(f"embedded:{name}"))).float().eval()
    scenes = [right for right, _ in pairs]
    pixels = render(scenes, [place(scene, rng) for scene in scenes])
    image = model.preprocess(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    with torch.no_grad():
        right, wrong = (model(image, *model.tokenize([caption(pair[which], 0) for pair in pairs])) for which in (0, 1))
    return float((right > wrong).float().mean())


def wrong_in(aspect: str) -> list[tuple[Scene, Scene]]:
    rng = np.random.default_rng(0)
    scenes = [scene for scene in draw_scenes(World(), "test", 6 * NUM, rng) if aspect in scene.aspects][:NUM]
    return [(scene, one_aspect_wrong(scene, aspect, rng)) for scene in scenes]


@pytest.mark.parametrize("aspect", ["attribute", "spatial", "non_spatial"])
def test_the_generic_trunk_was_never_told_of_composition_and_the_other_one_was(aspect: str) -> None:
    pairs = wrong_in(aspect)
    assert 0.35 < accuracy("generic_trunk", pairs) < 0.65, "about a coin's .5"
    assert accuracy("conv_trunk", pairs) > 0.95


def test_both_trunks_know_which_objects_a_picture_has() -> None:
    rng = np.random.default_rng(2)
    scenes = draw_scenes(World(), "test", 3 * NUM, rng)
    pairs = [
        (one, Scene(one.relation, other.first, other.second))
        for one, other in zip(scenes[::2], scenes[1::2], strict=True)
        if {one.first.colour, one.second.colour} != {other.first.colour, other.second.colour}
    ]
    for name in ("generic_trunk", "conv_trunk"):
        assert accuracy(name, pairs) > 0.9
