"""Laws of drawing by instance."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.gallery.instance_diffusion.instances import Instance, InstancePicture
from itercomp_rl.gallery.instance_diffusion.layers import InstanceLayers
from itercomp_rl.gallery.instance_diffusion.system import InstanceDenoiser
from itercomp_rl.gallery.planning.layout import Box

CUP = Instance(phrase="a red cup", box=Box(phrase="a red cup", left=0, top=0.2, right=0.5, bottom=0.8))
BALL = Instance(phrase="a blue ball", box=Box(phrase="a blue ball", left=0.5, top=0.2, right=1, bottom=0.8))
DOG = Instance(phrase="a dog", scribble=((0.1, 0.1), (0.9, 0.9)))
PAIR = InstancePicture(prompt="a red cup left of a blue ball", instances=(CUP, BALL))
ALONE = InstancePicture(prompt="a dog", instances=(DOG,))
EMPTY = InstancePicture(prompt="a green cat", instances=())


def draw(
    policy: Policy,
    layers: InstanceLayers,
    pictures: Sequence[InstancePicture],
    seeds: Sequence[int],
    max_rows: int = 32,
) -> np.ndarray:
    return InstanceDenoiser(policy, layers, max_rows=max_rows).draw(pictures, seeds, 4, guidance=3.0)


def levels_apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_without_instances_an_image_is_the_plain_pipelines_bit_for_bit(policy: Policy, layers: InstanceLayers) -> None:
    found = draw(policy, layers, [EMPTY, PAIR], [1, 2])
    assert np.array_equal(found[:1], policy.draw([EMPTY.prompt], [1], 4, guidance=3.0))


def test_an_image_depends_on_its_own_instances_alone(policy: Policy, layers: InstanceLayers) -> None:
    together = draw(policy, layers, [PAIR, ALONE], [1, 2])
    assert levels_apart(together[:1], draw(policy, layers, [PAIR], [1])) <= 1
    other = draw(policy, layers, [PAIR, replace(ALONE, instances=(replace(DOG, point=(0.9, 0.1)),))], [1, 2])
    assert levels_apart(together[0], other[0]) <= 1
    assert levels_apart(together[1], other[1]) > 1


def test_the_same_batch_is_drawn_again_bit_for_bit(policy: Policy, layers: InstanceLayers) -> None:
    assert np.array_equal(draw(policy, layers, [PAIR], [1]), draw(policy, layers, [PAIR], [1]))


def test_the_order_of_instances_changes_nothing_to_rounding(policy: Policy, layers: InstanceLayers) -> None:
    back = replace(PAIR, instances=PAIR.instances[::-1])
    assert levels_apart(draw(policy, layers, [PAIR], [1]), draw(policy, layers, [back], [1])) <= 1


def test_rows_at_a_time_change_nothing_to_rounding(policy: Policy, layers: InstanceLayers) -> None:
    few = draw(policy, layers, [PAIR, ALONE], [1, 2], max_rows=2)
    assert levels_apart(few, draw(policy, layers, [PAIR, ALONE], [1, 2])) <= 1


def test_a_box_elsewhere_is_another_picture(policy: Policy, layers: InstanceLayers) -> None:
    swapped = (replace(CUP, box=replace(BALL.box, phrase="a red cup")), replace(BALL, box=CUP.box))  # pyright: ignore[reportArgumentType]
    other = draw(policy, layers, [replace(PAIR, instances=swapped)], [1])
    assert levels_apart(draw(policy, layers, [PAIR], [1]), other) > 1


def test_thirty_instances_are_drawn(policy: Policy, layers: InstanceLayers) -> None:
    thirty = tuple(Instance(phrase="a dog", point=(i / 30, 0.5)) for i in range(30))
    image = InstanceDenoiser(policy, layers).draw([InstancePicture(prompt="a dog", instances=thirty)], [1], 2)
    assert image.shape == (1, 16, 16, 3)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_the_network_is_left_as_it_was(policy: Policy, layers: InstanceLayers, guidance: float) -> None:
    before = policy.draw(["a dog"], [1], 2, guidance=1.0)
    InstanceDenoiser(policy, layers).draw([PAIR], [1], 2, guidance=guidance)
    assert np.array_equal(policy.draw(["a dog"], [1], 2, guidance=1.0), before)
