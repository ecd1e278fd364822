"""Step 5 of a prompt's road: a roller denoises without gradient, under the newest policy, up to the mid step."""

import torch

from actors.rolled_network import RolledNetwork
from itercomp_rl.config.schema import PolicyConfig
from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.items import Rollout, RolloutOrder


class Roller:
    """Rolls out under one published version of the policy at a time; which network holds it is not its concern."""

    def __init__(self, network: RolledNetwork, settings: PolicyConfig) -> None:
        self._network, self._settings = network, settings

    def roll(self, order: RolloutOrder) -> Rollout:
        """Latents at each image's mid steps, from its own generator; a walk goes on where the last one stopped."""
        held, settings = self._network.held_for(order), self._settings
        policy = held.policy
        generators = image_generators(order.seeds)
        cond = held.encoded.of([prompt.text for prompt in order.prompts], policy.device)
        schedule = policy.schedule(settings.num_steps, settings.scheduler)
        latents, points = policy.start_latents(generators), []
        before: list[int] = [0] * len(order.prompts)
        for steps in order.mid_steps:
            latents = policy.denoise_to(
                latents, cond, schedule, (before, list(steps)), generators, guidance=settings.rollout_guidance
            )
            before = list(steps)
            points.append(latents)
        return Rollout(
            index=order.index,
            version=held.version,
            prompts=order.prompts,
            mid_steps=order.mid_steps,
            latents=torch.stack(points).cpu().numpy(),
        )
