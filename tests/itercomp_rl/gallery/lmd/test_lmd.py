"""Laws of drawing by layout: what boxes change, what they must not, and that attention follows them."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.errors import ConfigError
from itercomp_rl.gallery.gallery import Gallery
from itercomp_rl.gallery.grounded_prompt import grounded_prompt
from itercomp_rl.gallery.lmd.attention_energy import Energy, attention_energy, box_mask
from itercomp_rl.gallery.lmd.denoiser import Conditions, LmdDenoiser, LmdSettings
from itercomp_rl.gallery.planning.layout import Box, Layout
from itercomp_rl.items import ModelRef
from tests.parts.checkpoints import make_sd3
from tests.parts.layout_checkpoints import make_gligen, make_sd1

CUP = Box(phrase="a red cup", left=0.0, top=0.25, right=0.5, bottom=0.75)
BALL = Box(phrase="a blue ball", left=0.5, top=0.25, right=1.0, bottom=0.75)
DOG = Box(phrase="a dog", left=0.25, top=0.0, right=0.75, bottom=0.5)
PAIR = Layout(prompt="a red cup left of a blue ball", boxes=(CUP, BALL))
ALONE = Layout(prompt="a dog", boxes=(DOG,))
EMPTY = Layout(prompt="a green cat", boxes=())
OFF = LmdSettings(scale=0.0, reference_weight=0.0)
ON = LmdSettings(threshold=0.0)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(make_sd1(tmp_path_factory.mktemp("sd1")))


@pytest.fixture(scope="module")
def gligen(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(make_gligen(tmp_path_factory.mktemp("gligen")))


def draw(policy: Policy, settings: LmdSettings, layouts: Sequence[Layout], seeds: Sequence[int]) -> np.ndarray:
    return LmdDenoiser(policy, settings).draw(layouts, seeds, 5, guidance=3.0)[0]


def text_alone(policy: Policy, layouts: Sequence[Layout], seeds: Sequence[int]) -> np.ndarray:
    return policy.draw([layout.prompt for layout in layouts], seeds, 5, guidance=3.0)


def levels_apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_without_boxes_an_image_is_the_plain_pipelines_bit_for_bit(plain: Policy, gligen: Policy) -> None:
    for policy in (plain, gligen):
        found = draw(policy, ON, [EMPTY, PAIR, EMPTY], [1, 2, 3])
        assert np.array_equal(found[[0, 2]], text_alone(policy, [EMPTY, EMPTY], [1, 3]))


def test_without_guidance_and_gligen_boxes_change_nothing(plain: Policy) -> None:
    assert np.array_equal(draw(plain, OFF, [PAIR, ALONE], [1, 2]), text_alone(plain, [PAIR, ALONE], [1, 2]))


def test_gates_that_are_shut_leave_the_plain_pipeline(tmp_path: Path) -> None:
    shut = load_policy(make_gligen(tmp_path, gate=0.0))
    assert levels_apart(draw(shut, OFF, [PAIR], [1]), text_alone(shut, [PAIR], [1])) <= 1


def test_open_gates_and_guidance_each_change_the_picture(plain: Policy, gligen: Policy) -> None:
    assert levels_apart(draw(gligen, OFF, [PAIR], [1]), text_alone(gligen, [PAIR], [1])) > 1
    assert levels_apart(draw(plain, ON, [PAIR], [1]), text_alone(plain, [PAIR], [1])) > 1


def test_gligen_is_off_after_its_share_of_the_steps(gligen: Policy) -> None:
    never = replace(OFF, grounded_share=0.0)
    assert np.array_equal(draw(gligen, never, [PAIR], [1]), text_alone(gligen, [PAIR], [1]))


def test_an_image_depends_on_its_own_layout_alone(gligen: Policy) -> None:
    together = draw(gligen, ON, [PAIR, ALONE], [1, 2])
    assert levels_apart(together[:1], draw(gligen, ON, [PAIR], [1])) <= 1
    moved = replace(ALONE, boxes=(replace(DOG, left=0.0, phrase="a cat"),))
    other = draw(gligen, ON, [PAIR, moved], [1, 2])
    assert levels_apart(together[0], other[0]) <= 1
    assert levels_apart(together[1], other[1]) > 1


def test_the_same_batch_is_drawn_again_bit_for_bit(gligen: Policy) -> None:
    assert np.array_equal(draw(gligen, ON, [PAIR, ALONE], [1, 2]), draw(gligen, ON, [PAIR, ALONE], [1, 2]))


def test_the_order_of_boxes_changes_nothing_to_rounding(gligen: Policy) -> None:
    back = replace(PAIR, boxes=PAIR.boxes[::-1])
    assert levels_apart(draw(gligen, ON, [PAIR], [1]), draw(gligen, ON, [back], [1])) <= 1


def test_thirty_boxes_are_drawn(gligen: Policy) -> None:
    boxes = [Box(phrase="a dog", left=i / 31, top=0.0, right=(i + 1) / 31, bottom=1.0) for i in range(30)]
    image = draw(gligen, replace(ON, reference_weight=0.0), [Layout(prompt="a dog", boxes=tuple(boxes))], [1])
    assert image.shape == (1, 16, 16, 3)


def test_a_box_too_small_for_the_maps_pulls_to_its_centre(plain: Policy) -> None:
    speck = Layout(prompt="a dog", boxes=(Box(phrase="a dog", left=0.9, top=0.9, right=0.92, bottom=0.92),))
    assert levels_apart(draw(plain, ON, [speck], [1]), text_alone(plain, [speck], [1])) > 1


class Watched(LmdDenoiser):
    """Keeps the energy of every guidance pass."""

    def watch(self, layout: Layout) -> list[float]:
        self.layout, self.energies = layout, []
        self.draw([layout], [3], 1, guidance=1.0)
        return self.energies

    def maps(self, latents: Tensor, timesteps_B: Tensor, told: Conditions) -> list[Tensor]:
        maps = super().maps(latents, timesteps_B, told)
        objects = grounded_prompt(self.policy.pipeline.tokenizer, self.layout).objects
        sides = [round(attention.shape[2] ** 0.5) for attention in maps]
        masks = [[box_mask(item.boxes, side, side) for item in objects] for side in sides]
        own = [attention[0] for attention in maps]
        with torch.no_grad():
            self.energies.append(float(attention_energy(own, masks, [item.tokens for item in objects], Energy())))
        return maps


def test_the_energy_falls_with_every_descent(plain: Policy) -> None:
    settings = LmdSettings(iterations=(12,), threshold=0.0, reference_weight=0.0)
    energies = Watched(plain, settings).watch(PAIR)
    assert len(energies) == 12
    assert all(after < before for before, after in itertools.pairwise(energies))


def test_an_image_below_the_threshold_is_let_go_after_one_look(plain: Policy) -> None:
    settings = LmdSettings(iterations=(12,), threshold=1e6, reference_weight=0.0)
    assert len(Watched(plain, settings).watch(PAIR)) == 1


def test_guidance_is_stretched_to_the_steps_taken() -> None:
    settings = LmdSettings()
    assert [settings.iterations_at(step, 50) for step in (0, 4, 5, 10, 19, 20, 29, 30)] == [4, 4, 3, 2, 2, 1, 1, 0]
    assert [settings.iterations_at(step, 10) for step in range(10)] == [4, 3, 2, 2, 1, 1, 0, 0, 0, 0]
    assert settings.num_guided(50) == 30
    assert settings.num_guided(10) == 6


def test_phrases_behind_a_long_prompts_end_are_told(plain: Policy) -> None:
    far = Layout(prompt="red " * 500 + "a dog", boxes=(DOG,))
    images, unseen = LmdDenoiser(plain, ON).draw([far, PAIR], [1, 2], 2, guidance=1.0)
    assert unseen == [("a dog",), ()]
    assert np.array_equal(images[:1], plain.draw([far.prompt], [1], 2, guidance=1.0))


def test_a_family_without_cross_attention_is_refused_by_name(tmp_path: Path) -> None:
    model = ModelRef(name="boxes", checkpoint=str(make_sd3(tmp_path)), num_steps=2, system="lmd", planner="rule")
    with pytest.raises(ConfigError, match=r"gallery\.members\.boxes\.model .* system 'lmd' needs"):
        gallery(tmp_path).draw(model, ["a dog"], [1])


def gallery(folder: Path) -> Gallery:
    from itercomp_rl.config.load import load_config
    from itercomp_rl.store.store import open_store

    settings = load_config("tiny", []).gallery
    return Gallery(open_store((folder / "store").as_uri(), create=True, durable=False), settings, torch.device("cpu"))
