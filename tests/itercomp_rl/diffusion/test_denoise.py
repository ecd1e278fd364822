"""The step tables against the diffusers schedulers they stand for, and the laws of the loop."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from itercomp_rl.diffusion.denoise import (
    Diffusion,
    Flow,
    Process,
    denoise,
    image_generators,
    noised_for_training,
    shift_for_size,
    standard_noise,
)
from itercomp_rl.errors import CheckpointError, ConfigError

CPU = torch.device("cpu")
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def toy(latents: Tensor, timesteps_B: Tensor) -> Tensor:
    """A stand-in for a network: bounded, and different at every time and place."""
    time = timesteps_B.float().view(-1, *[1] * (latents.ndim - 1)) / 1000
    return torch.tanh(0.7 * latents + time) - 0.3 * time


def toy_network(latents: Tensor, timesteps_B: Tensor, rows: Sequence[int]) -> Tensor:
    return toy(latents, timesteps_B)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("settings", [{**SD_BETAS, "steps_offset": 1}, {**COSINE, "timestep_spacing": "trailing"}])
@pytest.mark.parametrize("num_steps", [10, 30])
def test_ddim_steps_are_those_of_diffusers(prediction: Any, settings: dict[str, Any], num_steps: int) -> None:
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=False, **settings)
    schedule = Diffusion(scheduler.config).schedule(num_steps)
    scheduler.set_timesteps(num_steps)
    assert list(schedule.timesteps) == scheduler.timesteps.tolist()
    theirs = ours = normal(2, 4, 3, 3, seed=0)
    for i, t in enumerate(scheduler.timesteps):
        output = toy(theirs, t.expand(2))
        step = scheduler.step(output, int(t), theirs)
        torch.testing.assert_close(schedule.x0(i, theirs, output), step.pred_original_sample, rtol=2e-5, atol=1e-4)
        ours, theirs = schedule.advance(i, theirs, output), step.prev_sample
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_ddpm_steps_are_those_of_diffusers(prediction: Any, variance: Any, spacing: Any) -> None:
    scheduler = DDPMScheduler(
        prediction_type=prediction, variance_type=variance, timestep_spacing=spacing, clip_sample=False, **SD_BETAS
    )
    schedule = Diffusion(scheduler.config).schedule(12, "ddpm")
    scheduler.set_timesteps(12)
    theirs = normal(2, 4, 3, 3, seed=0)
    for i, t in enumerate(scheduler.timesteps):
        noise = normal(2, 4, 3, 3, seed=100 + i)
        output = toy(theirs, t.expand(2))
        ours = schedule.advance(i, theirs, output, noise)
        # the scheduler draws from its generator what `noise` was drawn from
        theirs = scheduler.step(output, int(t), theirs, generator=torch.Generator().manual_seed(100 + i)).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("make", [DDIMScheduler, DDPMScheduler])
def test_clipping_is_kept_where_the_checkpoint_states_it(make: Any) -> None:
    scheduler = make(clip_sample=True, clip_sample_range=0.5, **SD_BETAS)
    schedule = Diffusion(scheduler.config).schedule(5, "ddim" if make is DDIMScheduler else "ddpm")
    scheduler.set_timesteps(5)
    latents, output = normal(2, 4, 3, 3, seed=0), normal(2, 4, 3, 3, seed=1)
    noise = normal(2, 4, 3, 3, seed=2)
    for i, t in enumerate(scheduler.timesteps):
        theirs = scheduler.step(output, int(t), latents, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(schedule.x0(i, latents, output), theirs.pred_original_sample)
        ours = schedule.advance(i, latents, output, noise)
        torch.testing.assert_close(ours, theirs.prev_sample, rtol=1e-4, atol=1e-4)


def test_a_scheduler_that_cannot_clip_is_never_clipped() -> None:
    assert Diffusion(dict(SD_BETAS)).schedule(5).clip_x0 is None


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("settings", [{}, {"shift": 3.0}])
def test_flow_steps_are_those_of_diffusers(stochastic: bool, settings: dict[str, Any]) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=stochastic, **settings)
    schedule = Flow(scheduler.config).schedule(9, "renoise" if stochastic else "euler")
    scheduler.set_timesteps(9)
    assert list(schedule.timesteps) == scheduler.timesteps.tolist()
    theirs = normal(2, 4, 3, 3, seed=0)
    for i, t in enumerate(scheduler.timesteps):
        output = toy(theirs, t.expand(2))
        ours = schedule.advance(i, theirs, output, normal(2, 4, 3, 3, seed=100 + i))
        step = scheduler.step(output, t, theirs, generator=torch.Generator().manual_seed(100 + i), return_dict=False)
        theirs = step[0]
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_flux_sigmas_are_shifted_by_the_size_of_the_image() -> None:
    config = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True).config
    # 1024 px FLUX: 64 x 64 patches, the upper end of the line, mu 1.15
    assert shift_for_size(config, 4096, default_max_shift=1.15) == pytest.approx(1.15)
    assert shift_for_size(config, 256, default_max_shift=1.15) == pytest.approx(0.5)
    # exponential shift of sigma 1/2: e^mu / (e^mu + 1)
    schedule = Flow(config, mu=1.15, explicit_sigmas=True).schedule(2)
    assert schedule.timesteps == pytest.approx((1000.0, 1000 * 3.158193 / 4.158193), rel=1e-5)


PROCESSES: dict[str, Process] = {
    "epsilon": Diffusion({**SD_BETAS, "steps_offset": 1}),
    "v_prediction": Diffusion({**COSINE, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    "zero terminal snr": Diffusion(
        {**SD_BETAS, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    ),
    "sample": Diffusion({**SD_BETAS, "prediction_type": "sample"}),
    "flow": Flow({"shift": 3.0}),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_perfect_network_gives_x0_back_at_every_noise_level(name: str) -> None:
    process = PROCESSES[name]
    x0, generator = normal(40, 2, 3, 3, seed=0), torch.Generator().manual_seed(1)
    latents, target, timesteps_B = noised_for_training(process, x0, generator)
    for b, t in enumerate(timesteps_B):
        level = int((process.timesteps_T == t).nonzero()[0, 0])
        signal, noise = float(process.signal_T[level]), float(process.noise_T[level])
        x = latents[b]
        x0_hat = {
            "epsilon": lambda x=x, b=b, s=signal, n=noise: (x - n * target[b]) / s,
            "v_prediction": lambda x=x, b=b, s=signal, n=noise: s * x - n * target[b],
            "sample": lambda b=b: target[b],
            "flow": lambda x=x, b=b, n=noise: x - n * target[b],
        }[process.prediction]()
        torch.testing.assert_close(x0_hat, x0[b], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_deterministic_sampler_ends_on_the_only_image_there_is(name: str) -> None:
    """When all data is one image, a perfect network predicts it from any latents, and sampling must end there."""
    process = PROCESSES[name]
    schedule = process.schedule(8)
    image = normal(1, 2, 3, 3, seed=5)

    def perfect(latents: Tensor, timesteps_B: Tensor, rows: Sequence[int]) -> Tensor:
        step = schedule.timesteps.index(timesteps_B[0].item())
        return (image - schedule.x0_from_latents[step] * latents) / schedule.x0_from_output[step]

    end = denoise(perfect, normal(3, 2, 3, 3, seed=0), schedule, (0, 8))
    torch.testing.assert_close(end, image.expand(3, -1, -1, -1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_training_noise_and_targets_are_those_of_diffusers(prediction: Any) -> None:
    scheduler = DDPMScheduler(prediction_type=prediction, **SD_BETAS)
    x0 = normal(16, 4, 2, 2, seed=0)
    generator = torch.Generator().manual_seed(3)
    latents, target, timesteps_B = noised_for_training(Diffusion(scheduler.config), x0, generator)
    again = torch.Generator().manual_seed(3)
    assert torch.equal(timesteps_B, torch.randint(0, 1000, (16,), generator=again))
    noise = torch.randn(x0.shape, generator=again)
    torch.testing.assert_close(latents, scheduler.add_noise(x0, noise, timesteps_B))
    theirs = noise if prediction == "epsilon" else scheduler.get_velocity(x0, noise, timesteps_B)
    torch.testing.assert_close(target, theirs)


@pytest.mark.parametrize("name", PROCESSES)
def test_training_draws_only_from_the_asked_range_of_noise(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    *_, low_B = noised_for_training(PROCESSES[name], normal(400, 1, seed=0), generator, (0.0, 0.5))
    *_, high_B = noised_for_training(PROCESSES[name], normal(400, 1, seed=0), generator, (0.5, 1.0))
    assert low_B.max() < high_B.min()
    with pytest.raises(ValueError, match="timestep_range"):
        noised_for_training(PROCESSES[name], normal(4, 1, seed=0), generator, (0.5, 0.5))


@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
def test_an_image_does_not_depend_on_its_batch(kind: str) -> None:
    schedule = PROCESSES["epsilon"].schedule(6, kind)
    seeds, stops = [11, 12, 13], [2, 6, 4]

    def drawn(rows: list[int]) -> Tensor:
        generators = image_generators([seeds[b] for b in rows])
        start = standard_noise(generators, (2, 3, 3), CPU)
        return denoise(toy_network, start, schedule, (0, [stops[b] for b in rows]), generators)

    together = drawn([0, 1, 2])
    alone = torch.cat([drawn([0]), drawn([1]), drawn([2])])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


def test_steps_and_noise_go_on_where_they_stopped() -> None:
    schedule = PROCESSES["epsilon"].schedule(6, "ddpm")
    at_once, in_two = image_generators([1, 2]), image_generators([1, 2])
    start = normal(2, 2, 3, 3, seed=0)
    whole = denoise(toy_network, start, schedule, (0, 6), at_once)
    half = denoise(toy_network, start, schedule, (0, [2, 3]), in_two)
    assert torch.equal(whole, denoise(toy_network, half, schedule, ([2, 3], 6), in_two))


def test_one_index_per_image_equals_one_call_per_image() -> None:
    schedule = PROCESSES["v_prediction"].schedule(6)
    latents, output = normal(3, 2, 2, 2, seed=0), normal(3, 2, 2, 2, seed=1)
    together = schedule.x0([0, 3, 5], latents, output)
    alone = torch.cat([schedule.x0(i, latents[b : b + 1], output[b : b + 1]) for b, i in enumerate([0, 3, 5])])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


def test_the_input_latents_are_not_written_to() -> None:
    start = normal(2, 2, 3, 3, seed=0)
    before = start.clone()
    denoise(toy_network, start, PROCESSES["flow"].schedule(3), (0, [1, 3]))
    assert torch.equal(start, before)


def test_a_noisy_sampler_without_generators_is_refused() -> None:
    with pytest.raises(ValueError, match="one generator per image"):
        denoise(toy_network, normal(2, 2, 3, 3, seed=0), PROCESSES["epsilon"].schedule(4, "ddpm"), (0, 2))


@pytest.mark.parametrize("steps", [(0, 5), (-1, 2), (0, [1, 5])])
def test_steps_outside_the_schedule_are_refused(steps: Any) -> None:
    with pytest.raises(ValueError, match="leave the schedule of 4 steps"):
        denoise(toy_network, normal(2, 2, 3, 3, seed=0), PROCESSES["flow"].schedule(4), steps)


def test_an_unknown_sampler_or_number_of_steps_names_what_there_is() -> None:
    with pytest.raises(ConfigError, match="ddim and ddpm"):
        PROCESSES["epsilon"].schedule(4, "euler")
    with pytest.raises(ConfigError, match="euler and renoise"):
        PROCESSES["flow"].schedule(4, "ddpm")
    with pytest.raises(ConfigError, match="1 to 1000"):
        PROCESSES["epsilon"].schedule(1001)
    with pytest.raises(ConfigError, match="num_steps is 0"):
        PROCESSES["flow"].schedule(0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("prediction_type", "score"), ("variance_type", "learned_range"), ("thresholding", True)],
)
def test_settings_that_would_be_ignored_are_refused(setting: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=setting):
        Diffusion({**SD_BETAS, setting: value})


def test_schedulers_of_other_kinds_of_noise_are_refused() -> None:
    with pytest.raises(CheckpointError, match="EDMEulerScheduler has no beta_schedule"):
        Diffusion({"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"})
    with pytest.raises(CheckpointError, match="DDIMScheduler has no shift"):
        Flow({"_class_name": "DDIMScheduler", **SD_BETAS})
    with pytest.raises(CheckpointError, match="invert_sigmas"):
        Flow({"shift": 3.0, "invert_sigmas": True})


def test_epsilon_prediction_at_zero_signal_is_refused() -> None:
    process = Diffusion({**SD_BETAS, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"})
    with pytest.raises(CheckpointError, match="zero signal"):
        process.schedule(4)
