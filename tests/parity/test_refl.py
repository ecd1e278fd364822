"""One reward feedback step, number by number against a recording of the official code on a tiny SDXL, in float32."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.policy import Conditioning, Policy
from itercomp_rl.diffusion.refl import Feedback, Rolled, feedback_step
from itercomp_rl.reward.checkpoint import load_official
from itercomp_rl.reward.model import RewardConfig, RewardModel

X0_TOLERANCE = 1e-4  # of its maximum
REWARD_TOLERANCE = 1e-3  # absolute
LOSS_TOLERANCE = 1e-4  # relative
GRADIENT_TOLERANCE = 1e-3  # of the gradient's norm
IMAGE_TOLERANCE = 2e-3  # of its maximum; recorded in half precision


@dataclass(frozen=True)
class Recording:
    case: dict[str, Any]
    io: dict[str, Tensor]
    policy: Policy
    rewards: dict[str, RewardModel]


@pytest.fixture(scope="module")
def recording(parity_dir: Path) -> Recording:
    folder = parity_dir / "refl"
    case = json.loads((folder / "case.json").read_text())
    policy = load_policy(folder / "pipeline", resolution_px=case["resolution"])
    config = recorded_reward_config(case)
    rewards = {
        aspect: load_official(
            folder / f"reward_{aspect}.safetensors", config, mean=case["reward_mean"], std=case["reward_std"]
        ).requires_grad_(False)
        for aspect in case["rewards"]
    }
    return Recording(case, load_file(folder / "io.safetensors"), policy, rewards)


def recorded_reward_config(case: Mapping[str, Any]) -> RewardConfig:
    vision, med = case["vision"], case["med_config"]
    text_keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    text_keys += ("vocab_size", "max_position_embeddings", "layer_norm_eps")
    return RewardConfig(
        vision={
            "hidden_size": vision["width"],
            "num_hidden_layers": vision["depth"],
            "num_attention_heads": vision["heads"],
            "patch_size": vision["patch_size"],
        },
        text={key: med[key] for key in text_keys},
        image_size=vision["image_size"],
    )


def recorded_conditioning(io: Mapping[str, Tensor]) -> Conditioning:
    return Conditioning(tokens=io["prompt_embeds"], pooled=io["pooled_prompt_embeds"], time_ids=io["time_ids"])


def scorer(recording: Recording) -> Any:
    def rewards(image: Tensor) -> dict[str, Tensor]:
        io = recording.io
        return {
            aspect: model.score(image, io[f"input_ids_{aspect}"], io[f"attention_mask_{aspect}"])
            for aspect, model in recording.rewards.items()
        }

    return rewards


def assert_near_max(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def test_prompts_are_encoded_as_recorded(recording: Recording) -> None:
    cond, expected = recording.policy.encode(recording.case["prompts"]), recorded_conditioning(recording.io)
    torch.testing.assert_close(cond.tokens, expected.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cond.pooled, expected.pooled, rtol=1e-4, atol=1e-5)


def test_sizes_are_told_as_recorded_when_images_are_whole(recording: Recording) -> None:
    side, case = recording.case["resolution"], recording.case
    cond = recording.policy.encode(case["prompts"])
    if any(size != [side, side] for size in case["original_sizes"]) or any(any(c) for c in case["crop_top_lefts"]):
        pytest.skip("the recording declares cropped or resized images, which a policy never does")
    assert torch.equal(cond.time_ids, recording.io["time_ids"])


def test_the_steps_before_the_mid_step_are_the_recorded_ones(recording: Recording) -> None:
    io, policy, mid = recording.io, recording.policy, recording.case["mid_index"]
    schedule, cond = policy.schedule(recording.case["num_inference_steps"], "ddpm"), recorded_conditioning(io)
    assert list(schedule.timesteps) == io["timesteps"].tolist()
    assert schedule.timesteps[mid] == recording.case["mid_timestep"]
    latents = io["initial_latents"]
    with torch.no_grad():
        for step in range(mid):
            output = policy.predict(latents, cond, schedule.timesteps_at(step, latents))
            latents = schedule.advance(step, latents, output, io["step_noise"][step].float())
        output = policy.predict(latents, cond, schedule.timesteps_at(mid, latents))
    assert_near_max(latents, io["latents_at_mid"], X0_TOLERANCE)
    assert_near_max(output, io["noise_pred_at_mid"], X0_TOLERANCE)


def test_the_predicted_image_and_its_rewards_are_the_recorded_ones(recording: Recording) -> None:
    io, policy, case = recording.io, recording.policy, recording.case
    schedule = policy.schedule(case["num_inference_steps"], "ddpm")
    with torch.no_grad():
        x0 = policy.predict_x0(io["latents_at_mid"], recorded_conditioning(io), schedule, case["mid_index"])
        image = policy.decode(io["pred_x0"])
    assert_near_max(x0, io["pred_x0"], X0_TOLERANCE)
    assert_near_max(image, (io["decoded_image"].float() / 2 + 0.5).clamp(0, 1), IMAGE_TOLERANCE)
    for aspect, score_B in scorer(recording)(policy.decode(io["pred_x0"])).items():
        expected_B = io[f"rewards_{aspect}"].squeeze(1)
        torch.testing.assert_close(score_B.detach(), expected_B, rtol=0, atol=REWARD_TOLERANCE)


def check_feedback(recording: Recording, latents: Tensor, feedback: Feedback) -> None:
    io, policy, case = recording.io, recording.policy, recording.case
    schedule = policy.schedule(case["num_inference_steps"], "ddpm")
    rolled = Rolled(latents=latents, cond=recorded_conditioning(io), schedule=schedule, mid=case["mid_index"])
    policy.trainable.requires_grad_(True).zero_grad()
    loss, metrics = feedback_step(policy, scorer(recording), rolled, feedback)
    loss.backward()
    for aspect, expected in case["rewards"].items():
        assert metrics[f"reward_{aspect}"] == pytest.approx(sum(expected) / len(expected), abs=REWARD_TOLERANCE)
    assert loss.item() == pytest.approx(case["loss"], rel=LOSS_TOLERANCE)
    gradients = {name: p.grad for name, p in policy.trainable.named_parameters() if p.grad is not None}
    for name in case["grad_names"]:
        expected = io[f"grad.{name}"]
        assert (gradients[name] - expected).norm() <= GRADIENT_TOLERANCE * expected.norm(), name
    total_norm = torch.stack([g.double().norm() for g in gradients.values()]).norm().item()
    assert total_norm == pytest.approx(case["grad_total_norm"], rel=GRADIENT_TOLERANCE)


def recorded_feedback(recording: Recording) -> Feedback:
    case = recording.case
    weights = dict.fromkeys(case["rewards"], 1.0)
    return Feedback(weights=weights, target=case["reward_margin"], scale=case["grad_scale"])


def test_rewards_loss_and_gradients_are_the_recorded_ones(recording: Recording) -> None:
    check_feedback(recording, recording.io["latents_at_mid"], recorded_feedback(recording))


def test_latents_off_by_a_hundredth_are_noticed(recording: Recording) -> None:
    latents = recording.io["latents_at_mid"]
    with pytest.raises(AssertionError):
        check_feedback(recording, latents + 1e-2 * latents.abs().max(), recorded_feedback(recording))


def test_another_scale_or_target_is_noticed(recording: Recording) -> None:
    feedback = recorded_feedback(recording)
    for wrong in (replace(feedback, scale=1.01 * feedback.scale), replace(feedback, target=feedback.target + 0.1)):
        with pytest.raises(AssertionError):
            check_feedback(recording, recording.io["latents_at_mid"], wrong)
