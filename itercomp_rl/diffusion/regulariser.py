"""What keeps a policy from collapsing while rewards pull at it: two losses on the same noised images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from itercomp_rl.diffusion.denoise import noised_for_training
from itercomp_rl.diffusion.frozen_base import FrozenBase
from itercomp_rl.diffusion.policy import Conditioning, Policy


@dataclass(frozen=True, kw_only=True)
class Regulariser:
    """Regulariser(denoising_weight=0.3) is the pre-training loss alone; base: needed if base_weight is not 0."""

    denoising_weight: float
    base_weight: float = 0.0
    base: FrozenBase | None = None


def regulariser_loss(
    policy: Policy, regulariser: Regulariser, x0: Tensor, cond: Conditioning, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum of two losses on clean latents [B, C, H, W], noised to levels drawn uniformly.

    The denoising loss is the mean squared error to what the noised latents hold, as in pre-training. The distance to
    the base is that to the base's prediction for the same latents, captions and levels: 0 as long as nothing is
    learned, and of the same unit. Both take one forward pass of the policy, except where a distilled guidance is an
    input of the network (FLUX-dev): an image says nothing about guidance, so that the denoising loss is taken at 1,
    while the base is asked at the guidance that the policy draws and learns with.
    Returns: a float32 scalar, and the two losses before their weights, each only if its weight is not 0.
    """
    latents, target, timesteps_B = noised_for_training(policy.process, x0, generator)
    loss, metrics, output = torch.zeros((), device=x0.device), {}, None
    if regulariser.denoising_weight:
        output = policy.predict(latents, cond.at_distilled_guidance(1.0), timesteps_B)
        denoising = mse_loss(output, target.float())
        loss = loss + regulariser.denoising_weight * denoising
        metrics["denoising_loss"] = denoising.item()
    if regulariser.base_weight:
        assert regulariser.base is not None, "a weight of the distance to the base needs the base"
        expected = regulariser.base.predict(latents, cond, timesteps_B)
        if output is None or cond.guidance is not None:
            output = policy.predict(latents, cond, timesteps_B)
        distance = mse_loss(output, expected)
        loss = loss + regulariser.base_weight * distance
        metrics["base_distance"] = distance.item()
    return loss, metrics
