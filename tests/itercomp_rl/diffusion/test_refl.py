"""The feedback loss by hand, and the gradient step on a tiny policy."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.diffusion.refl import Feedback, Rolled, feedback_step, jitter, refl_loss
from itercomp_rl.errors import DivergedError

THREE = Feedback(weights={"attribute": 1.0, "spatial": 1.0, "non_spatial": 1.0})


def test_the_loss_of_two_images_by_hand() -> None:
    scores = {
        "attribute": torch.tensor([2.5, 1.0]),
        "spatial": torch.tensor([0.0, 3.0]),
        "non_spatial": torch.tensor([1.5, -1.0]),
    }
    # image 1: 0 + 2 + .5 = 2.5; image 2: 1 + 0 + 3 = 4; mean 3.25, times 1e-3
    assert refl_loss(scores, THREE).item() == pytest.approx(3.25e-3)


def test_weights_and_masks_act_per_aspect() -> None:
    feedback = Feedback(weights={"attribute": 2.0, "spatial": 0.5}, target=1.0, scale=1.0)
    scores = {"attribute": torch.tensor([0.0, -1.0]), "spatial": torch.tensor([-1.0, 0.0])}
    mask = {"attribute": torch.tensor([True, False]), "spatial": torch.tensor([True, True])}
    # image 1: 2 * 1 + .5 * 2 = 3; image 2: masked + .5 * 1 = .5; mean over both images 1.75
    assert refl_loss(scores, feedback, mask).item() == pytest.approx(1.75)


def test_a_mean_over_a_prompts_aspects_and_targets_of_their_own_by_hand() -> None:
    feedback = Feedback(
        weights={"attribute": 1.0, "spatial": 2.0}, target=1.0, targets={"spatial": 3.0}, scale=1.0, combine="mean"
    )
    scores = {"attribute": torch.tensor([0.0, -1.0]), "spatial": torch.tensor([1.0, 0.0])}
    mask = {"attribute": torch.tensor([True, True]), "spatial": torch.tensor([True, False])}
    # image 1: (1 * 1 + 2 * 2) / 2 = 2.5; image 2: 1 * 2 / 1 = 2; mean 2.25
    assert refl_loss(scores, feedback, mask).item() == pytest.approx(2.25)
    # without a mask both images are about both: image 2: (2 + 2 * 3) / 2 = 4; mean 3.25
    assert refl_loss(scores, feedback).item() == pytest.approx(3.25)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_an_image_at_the_target_is_no_longer_pulled(scores: list[float]) -> None:
    score_B = torch.tensor(scores, requires_grad=True)
    feedback = Feedback(weights={"attribute": 1.0}, scale=1.0)
    loss = refl_loss({"attribute": score_B}, feedback)
    assert loss.item() == pytest.approx(sum(max(2 - s, 0) for s in scores) / len(scores), rel=1e-5, abs=1e-5)
    (gradient_B,) = torch.autograd.grad(loss, score_B)
    expected = [-1 / len(scores) if s < 2 else 0.0 for s in scores]
    assert gradient_B.tolist() == pytest.approx(expected)


def test_a_masked_score_has_neither_value_nor_gradient_even_if_it_is_not_finite() -> None:
    score_B = torch.tensor([1.0, float("nan")], requires_grad=True)
    loss = refl_loss({"spatial": score_B}, Feedback(weights={"spatial": 1.0}), {"spatial": torch.tensor([True, False])})
    loss.backward()
    assert loss.item() == pytest.approx(0.5e-3)
    assert score_B.grad is not None
    assert score_B.grad.tolist() == pytest.approx([-0.5e-3, 0.0])


def test_half_precision_scores_are_summed_in_float32() -> None:
    scores = {"attribute": torch.full((3,), 1.001, dtype=torch.bfloat16)}
    assert refl_loss(scores, Feedback(weights={"attribute": 1.0})).dtype == torch.float32


@pytest.mark.parametrize(
    ("scores", "mask"),
    [
        ({}, None),
        ({"attribute": torch.zeros(2)}, None),
        ({"attribute": torch.zeros(2), "spatial": torch.zeros(3)}, None),
        ({"attribute": torch.zeros(0), "spatial": torch.zeros(0)}, None),
        ({"attribute": torch.zeros(2, 1), "spatial": torch.zeros(2, 1)}, None),
        ({"attribute": torch.zeros(2), "spatial": torch.zeros(2)}, {"attribute": torch.ones(2, dtype=torch.bool)}),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores: dict[str, Tensor], mask: dict[str, Tensor] | None) -> None:
    with pytest.raises(ValueError, match=r"must match|is needed"):
        refl_loss(scores, Feedback(weights={"attribute": 1.0, "spatial": 1.0}), mask)


def redness(images: Tensor) -> dict[str, Tensor]:
    """A reward with an answer: how much red stands out, around 0."""
    return {"attribute": 4 * (images[:, 0] - images[:, 1:].mean(1)).mean((1, 2))}


def rolled_out(policy: Policy, seeds: list[int], mid: list[int]) -> Rolled:
    generators = image_generators(seeds)
    cond, schedule = policy.encode(["a red ball"] * len(seeds)), policy.schedule(8, policy.process.kinds[1])
    latents = policy.denoise_to(policy.start_latents(generators), cond, schedule, (0, mid), generators)
    return Rolled(latents=latents, cond=cond, schedule=schedule, mid=mid, generators=generators)


def test_feedback_raises_the_reward_of_every_family(policy: Policy) -> None:
    policy.trainable.requires_grad_(True)
    feedback = Feedback(weights={"attribute": 1.0})
    rolled = rolled_out(policy, [1, 2, 3], [4, 6, 7])
    optimizer = torch.optim.Adam(policy.trainable.parameters(), lr=1e-3)
    rewards = []
    for _ in range(6):
        optimizer.zero_grad()
        loss, metrics = feedback_step(policy, redness, rolled, feedback)
        loss.backward()
        optimizer.step()
        rewards.append(metrics["reward_attribute"])
    assert rewards[-1] > rewards[0]


def test_metrics_speak_of_the_images_an_aspect_is_about(folders: dict[str, Path]) -> None:
    policy = load_policy(folders["sd"])
    rolled = rolled_out(policy, [1, 2], [3, 5])

    def rewards(images: Tensor) -> dict[str, Tensor]:
        return {"attribute": torch.tensor([3.0, 1.0]), "spatial": torch.tensor([9.0, 9.0])}

    feedback = Feedback(weights={"attribute": 1.0, "spatial": 1.0})
    mask = {"attribute": torch.tensor([True, True]), "spatial": torch.tensor([False, False])}
    with torch.no_grad():
        _, metrics = feedback_step(policy, rewards, rolled, feedback, mask)
    assert metrics == pytest.approx({"refl_loss": 0.5e-3, "reward_attribute": 2.0, "share_below_target_attribute": 0.5})


def test_a_loss_that_is_not_finite_stops_the_job(folders: dict[str, Path]) -> None:
    policy = load_policy(folders["sd"])
    rolled = rolled_out(policy, [1], [3])
    with torch.no_grad(), pytest.raises(DivergedError, match="nan"):
        feedback_step(
            policy,
            lambda images: {"attribute": redness(images)["attribute"] * float("nan")},
            rolled,
            Feedback(weights={"attribute": 1.0}),
        )


def test_draft_takes_several_gradient_steps_also_with_a_noisy_sampler(folders: dict[str, Path]) -> None:
    policy = load_policy(folders["sd"])
    policy.trainable.requires_grad_(True)
    feedback = Feedback(weights={"attribute": 1.0}, num_grad_steps=3)
    loss, _ = feedback_step(policy, redness, rolled_out(policy, [1, 2], [4, 5]), feedback)
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.trainable.parameters())


def test_jitter_moves_whole_images_and_stays_in_range() -> None:
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = jitter(images, torch.Generator().manual_seed(1), max_shift_px=1)
    inner = moved[:, :, 1:-1, 1:-1]
    shifts = [(y, x) for y in range(3) for x in range(3)]
    found = [[torch.equal(inner[b], images[b, :, y : y + 6, x : x + 6]) for y, x in shifts] for b in range(64)]
    assert all(sum(row) == 1 for row in found)
    assert len({row.index(True) for row in found}) == 9
    noisy = jitter(images, torch.Generator().manual_seed(1), noise_std=0.5)
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert torch.equal(jitter(images, torch.Generator().manual_seed(1)), images)


def test_jitter_passes_gradient_to_the_image() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    jitter(images, torch.Generator().manual_seed(1), max_shift_px=2).sum().backward()
    # repeated edges count more than once, pixels moved out of sight not at all: every image keeps 8 x 8 pixels in all
    assert images.grad is not None
    assert images.grad.sum((2, 3)).tolist() == [[64.0] * 3] * 2
