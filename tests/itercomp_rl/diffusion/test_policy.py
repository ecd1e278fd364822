"""Every family through the same door: against its own diffusers pipeline, and with gradient."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from itercomp_rl.diffusion.checkpoint import check_checkpoint
from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.family import FAMILIES, load_policy
from itercomp_rl.diffusion.policy import Conditioning, Policy, as_uint8
from itercomp_rl.errors import CheckpointError, ConfigError, DivergedError
from tests.parts.checkpoints import make_flux

# Raised inside diffusers' Euler scheduler, which only the reference pictures use.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a red cup left of a blue ball", "a cat"]
SEEDS = [3, 4]
NUM_STEPS = 4


def drawn_by_diffusers(folder: Path, **settings: Any) -> np.ndarray:
    """What the plain pipeline draws from the same seeds, uint8 [B, H, W, 3]."""
    pipeline: Any = FAMILIES[check_checkpoint(folder)][0].from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        PROMPTS,
        num_inference_steps=NUM_STEPS,
        height=16,
        width=16,
        generator=image_generators(SEEDS),
        output_type="np",
        **settings,
    ).images
    return (images * 255).round().astype(np.uint8)


def assert_same_picture(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.uint8
    assert ours.shape == theirs.shape
    assert ours.std() > 5, "a flat picture proves nothing"
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_without_guidance_it_draws_what_the_pipeline_draws(
    folders: dict[str, Path], policy: Policy, family: str
) -> None:
    settings = {"guidance_scale": 3.5 if family == "flux" else 1.0}
    assert_same_picture(policy.draw(PROMPTS, SEEDS, NUM_STEPS), drawn_by_diffusers(folders[family], **settings))


def test_with_guidance_it_draws_what_the_pipeline_draws(folders: dict[str, Path], policy: Policy, family: str) -> None:
    ours = policy.draw(PROMPTS, SEEDS, NUM_STEPS, guidance=6.0)
    assert_same_picture(ours, drawn_by_diffusers(folders[family], guidance_scale=6.0))


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"], indirect=True)
def test_with_a_negative_prompt_it_draws_what_the_pipeline_draws(
    folders: dict[str, Path], policy: Policy, family: str
) -> None:
    negative = ["a dog", "a box"]
    ours = policy.draw(PROMPTS, SEEDS, NUM_STEPS, guidance=6.0, negative=negative)
    theirs = drawn_by_diffusers(folders[family], guidance_scale=6.0, negative_prompt=negative)
    assert_same_picture(ours, theirs)


def test_flux_without_a_guidance_embedding_is_guided_by_a_second_prediction(tmp_path: Path) -> None:
    folder = make_flux(tmp_path / "schnell", has_guidance=False)
    ours = load_policy(folder, resolution_px=16).draw(PROMPTS, SEEDS, NUM_STEPS, guidance=6.0)
    theirs = drawn_by_diffusers(folder, true_cfg_scale=6.0, negative_prompt=["", ""])
    assert_same_picture(ours, theirs)


@pytest.mark.parametrize(("family", "guidance"), [("sd", None), ("sd", 1.0), ("flux", 6.0)], indirect=["family"])
def test_a_negative_prompt_without_effect_is_refused(policy: Policy, guidance: float | None) -> None:
    with pytest.raises(ConfigError, match="no effect"):
        policy.draw(PROMPTS, SEEDS, NUM_STEPS, guidance=guidance, negative=["a dog", "a box"])


@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
def test_ddim_draws_what_a_ddim_pipeline_draws_whatever_scheduler_was_saved(policy: Policy) -> None:
    pipeline: Any = policy.pipeline
    ours = policy.draw(PROMPTS, SEEDS, NUM_STEPS, kind="ddim")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        PROMPTS,
        num_inference_steps=NUM_STEPS,
        guidance_scale=1.0,
        generator=image_generators(SEEDS),
        output_type="np",
    ).images
    assert_same_picture(ours, (images * 255).round().astype(np.uint8))


def test_what_is_drawn_depends_on_the_prompt(policy: Policy) -> None:
    cond = policy.encode(PROMPTS)
    same_noise = policy.start_latents(image_generators([5, 5]))
    timesteps_B = torch.full((2,), 500.0 if policy.process.prediction == "flow" else 500)
    with torch.no_grad():
        output = policy.predict(same_noise, cond, timesteps_B)
    assert not torch.allclose(output[0], output[1], rtol=1e-4, atol=1e-4)


def test_each_image_is_the_same_in_any_batch_and_order(policy: Policy) -> None:
    kind = policy.process.kinds[1]
    together = policy.draw(PROMPTS, SEEDS, NUM_STEPS, kind=kind)
    swapped = policy.draw(PROMPTS[::-1], SEEDS[::-1], NUM_STEPS, kind=kind)[::-1]
    alone = policy.draw(PROMPTS[1:], SEEDS[1:], NUM_STEPS, kind=kind)
    assert np.abs(together.astype(int) - swapped).max() <= 1
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1


def test_predicted_images_send_gradient_to_every_layer(policy: Policy) -> None:
    policy.trainable.requires_grad_(True)
    generators = image_generators(SEEDS)
    cond, schedule = policy.encode(PROMPTS), policy.schedule(10, policy.process.kinds[1])
    latents = policy.denoise_to(policy.start_latents(generators), cond, schedule, (0, [7, 8]), generators)
    assert not latents.requires_grad
    image = policy.decode(policy.predict_x0(latents, cond, schedule, [7, 8]))
    assert image.shape == (2, 3, 16, 16)
    assert image.min() >= 0
    assert image.max() <= 1
    image.mean().backward()
    # a few parameters are dead by construction, such as the text half of SD3's last block
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in policy.trainable.parameters()]
    assert sum(reached) / len(reached) > 0.8
    assert all(p.grad is None for p in policy.vae.parameters())


def test_several_gradient_steps_to_the_end_give_the_finished_image(policy: Policy) -> None:
    """DRaFT-K: the last prediction of a deterministic sampler is the image itself."""
    cond, schedule = policy.encode(PROMPTS), policy.schedule(NUM_STEPS)
    start = policy.start_latents(image_generators(SEEDS))
    mid = policy.denoise_to(start, cond, schedule, (0, 1))
    with torch.no_grad():
        end = policy.predict_x0(mid, cond, schedule, 1, num_steps=NUM_STEPS - 1)
    finished = policy.denoise_to(start, cond, schedule, (0, NUM_STEPS))
    if policy.process.prediction != "flow" and schedule.next_from_x0[-1] != 1:
        pytest.skip("this checkpoint ends on the first noise level instead of on clean latents")
    torch.testing.assert_close(end, finished, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["sd"], indirect=True)
def test_gradient_through_more_steps_is_another_gradient(policy: Policy) -> None:
    policy.trainable.requires_grad_(True)
    cond, schedule = policy.encode(PROMPTS), policy.schedule(NUM_STEPS)
    start = policy.start_latents(image_generators(SEEDS))

    def gradient(index: int, num_steps: int) -> torch.Tensor:
        policy.trainable.zero_grad()
        latents = policy.denoise_to(start, cond, schedule, (0, index))
        policy.predict_x0(latents, cond, schedule, index, num_steps=num_steps).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in policy.trainable.parameters() if p.grad is not None])

    last, last_two = gradient(NUM_STEPS - 1, 1), gradient(NUM_STEPS - 2, 2)
    assert torch.nn.functional.cosine_similarity(last, last_two, dim=0) < 0.999


@pytest.mark.parametrize("family", ["sd"], indirect=True)
@pytest.mark.parametrize(("index", "num_steps"), [(3, 2), (-1, 1), ([0, 4], 1), (2, 0)])
def test_predicting_outside_the_schedule_is_refused(policy: Policy, index: Any, num_steps: int) -> None:
    cond, schedule = policy.encode(PROMPTS), policy.schedule(4)
    latents = policy.start_latents(image_generators(SEEDS))
    with pytest.raises(ValueError, match="leave the schedule of 4 steps"):
        policy.predict_x0(latents, cond, schedule, index, num_steps=num_steps)


def test_recomputing_activations_does_not_change_the_gradient(policy: Policy) -> None:
    policy.trainable.requires_grad_(True).train()
    cond, schedule = policy.encode(PROMPTS), policy.schedule(NUM_STEPS)
    latents = policy.start_latents(image_generators(SEEDS))

    def gradient() -> torch.Tensor:
        policy.trainable.zero_grad()
        policy.decode(policy.predict_x0(latents, cond, schedule, 2)).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in policy.trainable.parameters() if p.grad is not None])

    kept = gradient()
    policy.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient(), kept, rtol=1e-4, atol=1e-7)


def test_latents_of_an_image_are_scaled_and_shifted_as_the_vae_says(policy: Policy) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    config: Any = policy.vae.config
    with torch.no_grad():
        posterior = policy.vae.encode(2 * images - 1).latent_dist
        mean_image = policy.vae.decode(posterior.mean).sample
    latents = policy.encode_images(images)
    torch.testing.assert_close(latents, (posterior.mean - (config.shift_factor or 0)) * config.scaling_factor)
    with torch.no_grad():
        decoded = policy.decode(latents)
    torch.testing.assert_close(decoded, (mean_image / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-5)
    drawn = policy.encode_images(images, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, policy.encode_images(images, torch.Generator().manual_seed(1)))
    assert not torch.allclose(drawn, latents)


def test_an_image_of_another_size_is_fitted_and_one_of_its_own_left_alone(policy: Policy) -> None:
    own = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert policy.fit(own) is own
    for height, width in ((32, 32), (8, 24), (40, 17)):
        fitted = policy.fit(torch.full((1, 3, height, width), 0.25))
        assert fitted.shape == (1, 3, 16, 16)
        torch.testing.assert_close(fitted, torch.full_like(fitted, 0.25))
    # A wide image keeps its middle: the left and right thirds are lost.
    wide = torch.cat([torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)], dim=-1)
    torch.testing.assert_close(policy.fit(wide), torch.ones(1, 3, 16, 16))


@pytest.mark.parametrize("family", ["sd"], indirect=True)
def test_guidance_of_one_is_no_guidance(policy: Policy) -> None:
    plain = policy.draw(PROMPTS, SEEDS, NUM_STEPS)
    assert np.array_equal(policy.draw(PROMPTS, SEEDS, NUM_STEPS, guidance=1.0), plain)


@pytest.mark.parametrize("family", ["sd"], indirect=True)
def test_an_engine_around_the_network_is_what_gets_called(policy: Policy) -> None:
    class Engine(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module
            self.num_calls = 0

        def forward(self, *args: Any, **settings: Any) -> Any:
            self.num_calls += 1
            return self.module(*args, **settings)

    engine = Engine(policy.trainable)
    policy.network = engine
    policy.draw(PROMPTS, SEEDS, NUM_STEPS)
    assert engine.num_calls == NUM_STEPS


def test_encoded_prompts_outlive_the_text_encoders(policy: Policy) -> None:
    cond = policy.encode(PROMPTS)
    before = policy.draw(cond, SEEDS, NUM_STEPS)
    policy.drop_text_encoders()
    assert np.array_equal(policy.draw(cond, SEEDS, NUM_STEPS), before)
    with pytest.raises(ConfigError, match="text encoders"):
        policy.encode(PROMPTS)


def test_a_policy_without_text_encoders_draws_from_encoded_prompts(
    folders: dict[str, Path], policy: Policy, family: str
) -> None:
    bare = load_policy(folders[family], resolution_px=16, with_text_encoders=False)
    cond = policy.encode(PROMPTS)
    assert np.array_equal(bare.draw(cond, SEEDS, NUM_STEPS), policy.draw(cond, SEEDS, NUM_STEPS))
    with pytest.raises(ConfigError, match="text encoders"):
        bare.encode(PROMPTS)


def test_a_half_precision_network_keeps_latents_and_vae_in_float32(folders: dict[str, Path], family: str) -> None:
    policy = load_policy(folders[family], dtype="bf16", resolution_px=16)
    assert next(policy.trainable.parameters()).dtype == torch.bfloat16
    assert {p.dtype for p in policy.vae.parameters()} == {torch.float32}
    cond, schedule = policy.encode(PROMPTS), policy.schedule(NUM_STEPS)
    latents = policy.start_latents(image_generators(SEEDS))
    with torch.no_grad():
        x0 = policy.predict_x0(latents, cond, schedule, 0)
        assert x0.dtype == torch.float32
        assert policy.decode(x0).dtype == torch.float32


def test_start_latents_and_step_noise_come_from_one_stream(policy: Policy) -> None:
    generators = image_generators(SEEDS)
    first = policy.start_latents(generators)
    assert not torch.equal(first, policy.start_latents(generators))
    assert torch.equal(first, policy.start_latents(image_generators(SEEDS)))


@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
def test_sdxl_is_told_uncropped_images_of_its_own_size(policy: Policy) -> None:
    time_ids = policy.encode(PROMPTS).time_ids
    assert time_ids is not None
    assert time_ids.tolist() == [[16, 16, 0, 0, 16, 16]] * 2


@pytest.mark.parametrize("family", ["flux"], indirect=True)
def test_flux_dev_is_told_its_distilled_guidance(policy: Policy) -> None:
    guidance = policy.encode(PROMPTS).guidance
    assert guidance is not None
    assert guidance.tolist() == [3.5, 3.5]


@pytest.mark.parametrize("resolution_px", [0, 15, 17])
def test_an_impossible_resolution_is_refused(folders: dict[str, Path], family: str, resolution_px: int) -> None:
    with pytest.raises(ConfigError, match="multiples of"):
        load_policy(folders[family], resolution_px=resolution_px)


def test_the_checkpoints_own_resolution_is_the_default(folders: dict[str, Path], family: str) -> None:
    side = load_policy(folders[family], with_text_encoders=False).size_px[0]
    assert side == (256 if family == "flux" else 16)


@pytest.mark.parametrize(
    ("component", "setting", "value"),
    [
        ("vae", "latents_mean", [0.0] * 4),
        ("vae", "latent_channels", 8),
        ("unet", "time_cond_proj_dim", 256),
    ],
)
def test_a_checkpoint_whose_settings_would_be_ignored_is_refused(
    folders: dict[str, Path], component: str, setting: str, value: object
) -> None:
    policy = load_policy(folders["sd"])
    policy.pipeline.components[component].register_to_config(**{setting: value})
    with pytest.raises(CheckpointError, match=setting.split("_")[0]):
        Policy(policy.pipeline, policy.family)


def test_schedules_are_made_once(folders: dict[str, Path]) -> None:
    policy = load_policy(folders["sd"])
    assert policy.schedule(5) is policy.schedule(5)
    assert policy.schedule(5, "ddpm").kind == "ddpm"


def conditioning(num_images: int, *, offset: int = 0) -> Conditioning:
    numbers = torch.arange(offset, offset + num_images, dtype=torch.float32)
    return Conditioning(tokens=numbers.view(-1, 1, 1).expand(-1, 2, 3), pooled=numbers.view(-1, 1))


def test_conditioning_rows_come_in_the_order_asked() -> None:
    rows = conditioning(4).index([2, 0, 2])
    assert len(rows) == 3
    assert rows.tokens[:, 0, 0].tolist() == [2, 0, 2]
    assert rows.pooled is not None
    assert rows.pooled[:, 0].tolist() == [2, 0, 2]
    assert rows.time_ids is None


def test_joined_conditionings_split_into_what_they_were() -> None:
    joined = Conditioning.cat([conditioning(2), conditioning(3, offset=7)])
    assert joined.tokens[:, 0, 0].tolist() == [0, 1, 7, 8, 9]
    assert torch.equal(joined.index(slice(2, 5)).tokens, conditioning(3, offset=7).tokens)
    assert joined.to("cpu").tokens.device.type == "cpu"


def test_conditionings_of_different_kinds_do_not_join() -> None:
    with pytest.raises(ValueError, match="pooled"):
        Conditioning.cat([conditioning(2), replace(conditioning(2), pooled=None)])
    with pytest.raises(ValueError, match="nothing"):
        Conditioning.cat([])


def test_seeds_and_prompts_must_be_as_many(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="one seed per prompt"):
        load_policy(folders["sd"]).draw(PROMPTS, [1], NUM_STEPS)


def test_levels_of_an_image_are_rounded_to_the_nearest() -> None:
    image = torch.tensor([0.0, 0.5, 0.998, 1.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    # 0.5 * 255 = 127.5, to even; 0.998 * 255 = 254.49
    assert as_uint8(image)[0, 0, :, 0].tolist() == [0, 128, 254, 255]


@pytest.mark.parametrize("wild", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_told_by_its_number_and_not_made_black(wild: float) -> None:
    images = torch.zeros(3, 3, 2, 2)
    images[1, 2, 0, 1] = wild
    with pytest.raises(DivergedError, match=r"images \[1\] of a batch of 3.*bf16 or fp32 in place of fp16"):
        as_uint8(images)
