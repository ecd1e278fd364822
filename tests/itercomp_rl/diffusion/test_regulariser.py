"""The regulariser's two losses, on every family: the denoising loss, and the distance to the frozen base."""

import pytest
import torch
from torch.nn.functional import mse_loss

from itercomp_rl.diffusion.denoise import noised_for_training
from itercomp_rl.diffusion.frozen_base import FrozenBase
from itercomp_rl.diffusion.lora import Lora, add_lora
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.diffusion.regulariser import Regulariser, regulariser_loss

PROMPTS = ["a red cup left of a blue ball", "a cat"]
DENOISING = Regulariser(denoising_weight=1.0)


def loss_of(policy: Policy, regulariser: Regulariser) -> tuple[torch.Tensor, dict[str, float]]:
    """On two images of noise, always the same noise levels."""
    x0 = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    return regulariser_loss(policy, regulariser, x0, policy.encode(PROMPTS), torch.Generator().manual_seed(1))


def near(base: FrozenBase, weight: float = 1.0) -> Regulariser:
    return Regulariser(denoising_weight=0.0, base_weight=weight, base=base)


def learners(policy: Policy, learns_adapter: bool) -> FrozenBase:
    """The policy's base, and `requires_grad` on all of its weights or on a new adapter's."""
    base = FrozenBase(policy, learns_adapter=learns_adapter)
    if learns_adapter:
        add_lora(policy, Lora(rank=2, alpha=4.0, targets=policy.family.lora_targets))
    else:
        policy.trainable.requires_grad_(True)
    return base


def learned(policy: Policy) -> list[torch.nn.Parameter]:
    return [p for p in policy.trainable.parameters() if p.requires_grad]


@torch.no_grad()
def disturb(policy: Policy, std: float = 0.05) -> None:
    """Move what learns, as if it had learned something."""
    generator = torch.Generator().manual_seed(5)
    for weight in learned(policy):
        weight += std * torch.randn(weight.shape, generator=generator)


def gradient(policy: Policy, loss: torch.Tensor) -> torch.Tensor:
    """Of all that learns, one vector."""
    found = torch.autograd.grad(loss, learned(policy), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def test_the_denoising_loss_falls_when_the_network_learns_it(policy: Policy) -> None:
    policy.trainable.requires_grad_(True)
    before = loss_of(policy, DENOISING)[0]
    optimizer = torch.optim.Adam(policy.trainable.parameters(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(policy, DENOISING)[0].backward()
        optimizer.step()
    assert loss_of(policy, DENOISING)[0] < 0.9 * before


@pytest.mark.parametrize("learns_adapter", [False, True])
def test_the_distance_to_the_base_and_its_gradient_are_0_at_the_base_and_it_is_above_away_from_it(
    policy: Policy, learns_adapter: bool
) -> None:
    base = learners(policy, learns_adapter)
    loss, metrics = loss_of(policy, near(base))
    assert loss.item() == metrics["base_distance"] == 0
    assert not gradient(policy, loss).any()
    disturb(policy)
    loss, metrics = loss_of(policy, near(base))
    assert loss.item() == pytest.approx(metrics["base_distance"])
    assert loss > 1e-6
    assert gradient(policy, loss).norm() > 0


@pytest.mark.parametrize("learns_adapter", [False, True])
def test_following_its_gradient_leads_back_to_the_base(policy: Policy, learns_adapter: bool) -> None:
    base = learners(policy, learns_adapter)
    disturb(policy)
    distances = []
    optimizer = torch.optim.Adam(learned(policy), lr=1e-2 if learns_adapter else 1e-3)
    for _ in range(10):
        optimizer.zero_grad()
        loss, metrics = loss_of(policy, near(base))
        loss.backward()
        optimizer.step()
        distances.append(metrics["base_distance"])
    assert distances[-1] < 0.9 * distances[0]


def test_a_switched_off_adapter_is_the_base_that_a_copy_of_all_weights_is(policy: Policy) -> None:
    copied = FrozenBase(policy, learns_adapter=False)
    switched = learners(policy, learns_adapter=True)
    disturb(policy)
    (one, _), (other, _) = loss_of(policy, near(copied)), loss_of(policy, near(switched))
    assert one.item() > 0
    assert one.item() == other.item()
    assert torch.equal(gradient(policy, one), gradient(policy, other))


def test_asking_the_base_changes_nothing_for_a_loss_of_the_policy_from_before(policy: Policy) -> None:
    base = learners(policy, learns_adapter=True)
    disturb(policy)
    before = gradient(policy, loss_of(policy, DENOISING)[0])
    loss, _ = loss_of(policy, DENOISING)
    loss_of(policy, near(base))
    assert torch.equal(gradient(policy, loss), before)


@pytest.mark.parametrize("family", ["sd", "flux"], indirect=True)
@pytest.mark.parametrize("learns_adapter", [False, True])
def test_the_distances_gradient_is_what_differences_say(policy: Policy, learns_adapter: bool) -> None:
    base = learners(policy, learns_adapter)
    disturb(policy)
    analytic = gradient(policy, loss_of(policy, near(base))[0])
    along = analytic / analytic.norm()
    step, values = 2e-3, []
    for sign in (1, -2):  # to +step, then to -step
        with torch.no_grad():
            for weight, part in zip(learned(policy), along.split([p.numel() for p in learned(policy)]), strict=True):
                weight += sign * step * part.view_as(weight)
        values.append(loss_of(policy, near(base))[0].item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(analytic.norm().item(), rel=2e-2)


def test_both_losses_are_weighed_and_see_the_same_noised_images(policy: Policy) -> None:
    base = learners(policy, learns_adapter=False)
    disturb(policy)
    (denoising, _), (distance, _) = loss_of(policy, DENOISING), loss_of(policy, near(base))
    both, metrics = loss_of(policy, Regulariser(denoising_weight=0.3, base_weight=2.0, base=base))
    assert metrics == {
        "denoising_loss": pytest.approx(denoising.item()),
        "base_distance": pytest.approx(distance.item()),
    }
    assert both.item() == pytest.approx(0.3 * denoising.item() + 2 * distance.item())


@pytest.mark.parametrize("family", ["flux"], indirect=True)
def test_images_are_denoised_at_a_distilled_guidance_of_1_and_the_base_is_asked_at_the_policys_own(
    policy: Policy,
) -> None:
    base = learners(policy, learns_adapter=False)
    disturb(policy)
    cond, generator = policy.encode(PROMPTS), torch.Generator().manual_seed(1)
    x0 = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    latents, target, timesteps_B = noised_for_training(policy.process, x0, generator)
    at = {g: policy.predict(latents, cond.at_distilled_guidance(g), timesteps_B) for g in (1.0, 3.5)}
    assert not torch.allclose(at[1.0], at[3.5]), "the network must hear its guidance"
    _, metrics = loss_of(policy, Regulariser(denoising_weight=1.0, base_weight=1.0, base=base))
    assert metrics["denoising_loss"] == pytest.approx(mse_loss(at[1.0], target).item())
    assert metrics["base_distance"] == pytest.approx(mse_loss(at[3.5], base.predict(latents, cond, timesteps_B)).item())


@pytest.mark.parametrize("family", ["sd"], indirect=True)
def test_a_copy_of_the_base_learns_nothing(policy: Policy) -> None:
    base = learners(policy, learns_adapter=False)
    assert base.network is not None
    before = [p.clone() for p in base.network.parameters()]
    disturb(policy)
    loss_of(policy, near(base))[0].backward()
    assert all(torch.equal(p, old) for p, old in zip(base.network.parameters(), before, strict=True))
    assert not any(p.requires_grad or p.grad is not None for p in base.network.parameters())
