"""The aspects' gradients at the images: laws of the projection, hand-worked numbers, and the whole gradient step."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.image_gradients import (
    gradient_metrics,
    image_gradients,
    is_clamped,
    loss_along,
    without_conflicts,
)
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.diffusion.refl import Feedback, Rolled, aspect_losses, feedback_step, refl_loss

ASPECTS = ("attribute", "spatial", "non_spatial")


def image(*values: float) -> Tensor:
    """An image of 3 x 1 x 1 with these values."""
    return torch.tensor(values).view(3, 1, 1)


def dot(one: Tensor, other: Tensor) -> Tensor:
    return (one.flatten(1) * other.flatten(1)).sum(1)


def drawn(seed: int, num_aspects: int, num_images: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {a: torch.randn(num_images, 3, 2, 2, generator=generator) for a in ASPECTS[:num_aspects]}


def test_two_conflicting_gradients_by_hand() -> None:
    gradients = {
        "attribute": torch.stack([image(1, 0, 0), image(1, 0, 0)]),
        "spatial": torch.stack([image(-1, 1, 0), image(1, 1, 0)]),
    }
    found = without_conflicts(gradients, seed=0)
    # image 1: dot -1; (1,0,0) + 1/2 (-1,1,0) = (.5,.5,0); (-1,1,0) + 1 (1,0,0) = (0,1,0). image 2: no conflict.
    assert torch.equal(found["attribute"], torch.stack([image(0.5, 0.5, 0), image(1, 0, 0)]))
    assert torch.equal(found["spatial"], torch.stack([image(0, 1, 0), image(1, 1, 0)]))


def test_three_gradients_by_hand_are_freed_in_the_drawn_order() -> None:
    gradients = {
        "attribute": image(1, 0, 0)[None],
        "spatial": image(-1, 1, 0)[None],
        "non_spatial": image(0, -1, 1)[None],
    }
    # attribute, spatial first: (.5,.5,0), then against (0,-1,1), dot -.5, + 1/4 (0,-1,1) = (.5,.25,.25).
    # attribute, non_spatial first: no conflict; then spatial: (.5,.5,0).
    orders = {tuple(without_conflicts(gradients, seed)["attribute"].flatten().tolist()) for seed in range(20)}
    assert orders == {(0.5, 0.25, 0.25), (0.5, 0.5, 0.0)}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_gradients_without_conflict_stay_bit_for_bit(seed: int, num_aspects: int) -> None:
    gradients = {aspect: gradient.abs() for aspect, gradient in drawn(seed, num_aspects).items()}
    found = without_conflicts(gradients, seed)
    assert list(found) == list(gradients)
    assert all(torch.equal(found[aspect], gradient) for aspect, gradient in gradients.items())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_of_two_aspects_neither_works_against_the_other_and_their_sum_against_none(seed: int) -> None:
    gradients = drawn(seed, 2)
    one, other = without_conflicts(gradients, seed).values()
    slack = -1e-5
    assert (dot(one, gradients["spatial"]) > slack).all()
    assert (dot(other, gradients["attribute"]) > slack).all()
    assert (dot(one, other) > slack).all()
    for gradient in gradients.values():
        assert (dot(one + other, gradient) > slack).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_images_are_freed_one_by_one_whatever_their_batch(seed: int) -> None:
    gradients = drawn(seed, 3)
    whole = without_conflicts(gradients, seed)
    for row in range(5):
        alone = without_conflicts({aspect: g[row : row + 1] for aspect, g in gradients.items()}, seed)
        for aspect in gradients:
            torch.testing.assert_close(alone[aspect][0], whole[aspect][row])


def test_the_order_is_the_seeds() -> None:
    gradients = drawn(1, 3, num_images=40)
    first, again = without_conflicts(gradients, 7), without_conflicts(gradients, 7)
    assert all(torch.equal(first[a], again[a]) for a in ASPECTS)
    others = [without_conflicts(gradients, seed) for seed in range(8)]
    assert any(not torch.equal(first[a], other[a]) for a in ASPECTS for other in others)


def test_an_aspect_that_says_nothing_about_an_image_changes_none_and_stays_nothing() -> None:
    gradients = {"attribute": image(1, 2, 3)[None], "spatial": torch.zeros(1, 3, 1, 1)}
    found = without_conflicts(gradients, 0)
    assert torch.equal(found["attribute"], gradients["attribute"])
    assert not found["spatial"].any()


def test_norms_and_cosines_by_hand_are_means_over_the_images_that_are_pulled() -> None:
    gradients = {
        "attribute": torch.stack([image(3, 4, 0), image(0, 2, 0), image(0, 0, 0)]) / 3,
        "spatial": torch.stack([image(-3, -4, 0), image(2, 2, 0), image(0, 0, 5)]) / 3,
        "non_spatial": torch.zeros(3, 3, 1, 1),
    }
    assert gradient_metrics(gradients) == pytest.approx(
        {
            "image_gradient_norm_attribute": (5 + 2) / 2,
            "image_gradient_norm_spatial": (5 + 8**0.5 + 5) / 3,
            "image_gradient_cosine_attribute_spatial": (-1 + 0.5**0.5) / 2,
        }
    )


def test_aspects_losses_add_up_to_the_whole_one() -> None:
    scores = {"attribute": torch.tensor([0.0, -1.0]), "spatial": torch.tensor([1.0, 0.0])}
    mask = {"attribute": torch.tensor([True, True]), "spatial": torch.tensor([True, False])}
    for combine in ("sum", "mean"):
        feedback = Feedback(weights={"attribute": 1.0, "spatial": 2.0}, combine=combine, scale=0.5)  # type: ignore[arg-type]
        for masked in (mask, None):
            parts = aspect_losses(scores, feedback, masked)
            assert sum(part.item() for part in parts.values()) == pytest.approx(
                refl_loss(scores, feedback, masked).item()
            )


def test_what_decoding_clamped_counts_for_nothing() -> None:
    images = torch.stack([image(0, 0.5, 1)]).requires_grad_()
    assert is_clamped(images).flatten().tolist() == [True, False, True]
    gradients = image_gradients({"attribute": images.sum(), "spatial": 2 * images.sum()}, images)
    assert torch.equal(gradients["attribute"], image(0, 1, 0)[None])
    assert torch.equal(gradients["spatial"], image(0, 2, 0)[None])


def test_a_loss_along_gradients_has_their_sum_as_its_gradient() -> None:
    gradients = drawn(3, 3)
    images = torch.rand(5, 3, 2, 2, requires_grad=True)
    (found,) = torch.autograd.grad(loss_along(gradients, images), images)
    torch.testing.assert_close(found, sum(gradients.values()))


# The gradient step as a whole, on a tiny SD with rewards of the colours.


def rolled_out(policy: Policy) -> Rolled:
    generators = image_generators([1, 2])
    cond, schedule, mid = policy.encode(["a red ball"] * 2), policy.schedule(6), [3, 4]
    latents = policy.denoise_to(policy.start_latents(generators), cond, schedule, (0, mid), generators)
    return Rolled(latents=latents, cond=cond, schedule=schedule, mid=mid)


def step(
    policy: Policy, sharpness: Mapping[str, float], aspect_gradients: str, measures_gradients: bool = False
) -> tuple[Tensor, dict[str, float]]:
    """Gradient of all weights and metrics, where every aspect wants its share of red."""

    def rewards(images: Tensor) -> dict[str, Tensor]:
        red = (images[:, 0] - images[:, 1:].mean(1)).mean((1, 2))
        return {aspect: weight * red for aspect, weight in sharpness.items()}

    feedback = Feedback(weights=dict.fromkeys(sharpness, 1.0), aspect_gradients=aspect_gradients)  # type: ignore[arg-type]
    loss, metrics = feedback_step(
        policy, rewards, rolled_out(policy), feedback, measures_gradients=measures_gradients, order_seed=3
    )
    gradients = torch.autograd.grad(loss, list(policy.trainable.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients]), metrics


@pytest.fixture
def sd(folders: dict[str, Path]) -> Policy:
    policy = load_policy(folders["sd"], resolution_px=16)
    policy.trainable.requires_grad_(True)
    return policy


def test_measuring_changes_no_bit_of_the_gradient(sd: Policy) -> None:
    sharpness = {"attribute": 4.0, "spatial": -2.0}
    plain, metrics = step(sd, sharpness, "sum")
    measured, more = step(sd, sharpness, "sum", measures_gradients=True)
    assert torch.equal(plain, measured)
    assert more.items() >= metrics.items()
    assert set(more) - set(metrics) == {
        *("image_gradient_norm_attribute", "image_gradient_norm_spatial"),
        *("image_gradient_cosine_attribute_spatial", "clamped_share"),
    }
    assert more["image_gradient_cosine_attribute_spatial"] == pytest.approx(-1, abs=1e-5)
    assert more["image_gradient_norm_attribute"] == pytest.approx(2 * more["image_gradient_norm_spatial"], rel=1e-4)


def test_aspects_that_agree_move_the_network_as_their_sum_does(sd: Policy) -> None:
    sharpness = {"attribute": 4.0, "spatial": 2.0, "non_spatial": 1.0}
    (plain, metrics), (projected, same) = (step(sd, sharpness, how) for how in ("sum", "project_by_image"))
    assert plain.norm() > 0
    assert (plain - projected).norm() < 1e-4 * plain.norm()
    assert metrics == same


def test_aspects_that_want_opposite_things_cancel(sd: Policy) -> None:
    sharpness = {"attribute": 4.0, "spatial": -1.0}
    plain, _ = step(sd, sharpness, "sum")
    projected, _ = step(sd, sharpness, "project_by_image")
    assert plain.norm() > 0
    assert projected.norm() < 1e-4 * plain.norm()
