"""Laws of the multi-instance sampler."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from itercomp_rl.diffusion.denoise import Diffusion
from itercomp_rl.errors import ConfigError
from itercomp_rl.gallery.instance_diffusion.denoiser import gate_scales, multi_instance_sample, plms_timesteps

PROCESS = Diffusion({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})
ABAR = PROCESS.signal_T**2
OPEN = (1.0, 0.0, 0.0)


def start(num: int) -> Tensor:
    return torch.randn(num, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def towards(images: dict[tuple[int, int], float]):
    """A network that knows every row's clean latents, one number for each."""

    def noise_of(latents: Tensor, timestep: int, rows: Sequence[tuple[int, int]], gate: float) -> Tensor:
        clean = torch.tensor([images[row] for row in rows]).view(-1, 1, 1, 1)
        abar = float(ABAR[timestep])
        return (latents - abar**0.5 * clean) / (1 - abar) ** 0.5

    return noise_of


def test_a_perfect_network_leads_to_its_image() -> None:
    found = multi_instance_sample(towards({(0, 0): 0.7}), start(1), [0], ABAR, 20, alone=0.36, gates=OPEN)
    torch.testing.assert_close(found, torch.full_like(found, 0.7), rtol=0, atol=0.15)


def test_instances_that_agree_with_the_whole_change_nothing() -> None:
    whole = multi_instance_sample(towards({(0, 0): 0.7}), start(1), [0], ABAR, 20, alone=0.36, gates=OPEN)
    agreeing = towards({(0, i): 0.7 for i in range(3)})
    torch.testing.assert_close(multi_instance_sample(agreeing, start(1), [2], ABAR, 20, alone=0.36, gates=OPEN), whole)


def test_the_order_of_instances_has_no_effect() -> None:
    found = [
        multi_instance_sample(
            towards({(0, 0): 0.5, (0, 1): a, (0, 2): b}), start(1), [2], ABAR, 10, alone=0.4, gates=OPEN
        )
        for a, b in ((-1.0, 2.0), (2.0, -1.0))
    ]
    torch.testing.assert_close(*found)


def test_images_of_a_batch_do_not_mix() -> None:
    network = towards({(0, 0): 0.5, (0, 1): -1.0, (1, 0): 0.2, (1, 1): 1.0, (1, 2): 0.1})
    together = multi_instance_sample(network, start(2), [1, 2], ABAR, 10, alone=0.4, gates=OPEN)
    alone = towards({(0, 0): 0.2, (0, 1): 1.0, (0, 2): 0.1})
    torch.testing.assert_close(
        together[1:], multi_instance_sample(alone, start(2)[1:], [2], ABAR, 10, alone=0.4, gates=OPEN)
    )


def test_with_no_steps_alone_no_instance_is_ever_asked() -> None:
    multi_instance_sample(towards({(0, 0): 0.5}), start(1), [5], ABAR, 10, alone=0.0, gates=OPEN)


def test_gates_reach_the_network_step_by_step() -> None:
    seen: list[float] = []

    def noise_of(latents: Tensor, timestep: int, rows: Sequence[tuple[int, int]], gate: float) -> Tensor:
        seen.append(gate)
        return torch.zeros_like(latents)

    multi_instance_sample(noise_of, start(1), [0], ABAR, 4, alone=0.0, gates=(0.5, 0.25, 0.25))
    assert seen == [1.0, 1.0, 1.0, 0.0, 0.0]  # the first step asks twice; falling over one step ends at 0


def test_falling_gates_pass_through_the_middle() -> None:
    assert gate_scales(6, (0.34, 0.34, 0.32)) == [1.0, 1.0, 0.5, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("num_steps", [0, 501])
def test_step_counts_that_plms_cannot_take_are_refused(num_steps: int) -> None:
    with pytest.raises(ConfigError, match=f"num_steps is {num_steps}: PLMS takes 1 to 500"):
        plms_timesteps(num_steps)


def test_every_step_count_that_is_taken_stays_within_the_levels_and_falls() -> None:
    for num_steps in range(1, 501):
        timesteps = plms_timesteps(num_steps)
        assert timesteps[-1] > 0 and timesteps[0] < 1000, num_steps
        assert all(after < before for before, after in itertools.pairwise(timesteps)), num_steps
