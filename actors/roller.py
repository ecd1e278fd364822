"""Step 5 of a prompt's road: a roller denoises without gradient, under the policy version told, up to the mid step."""

from collections.abc import Sequence

import torch

from itercomp_rl.attention import check_attention, set_attention
from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.encoded import EncodedPrompts, load_told
from itercomp_rl.diffusion.published import load_published
from itercomp_rl.items import Rollout, RolloutOrder
from itercomp_rl.models import checkpoint_path
from itercomp_rl.schema import PolicyConfig
from itercomp_rl.store.store import Store


class Roller:
    """One copy of the policy, refreshed from the store between rollouts, never within one."""

    def __init__(self, store: Store, settings: PolicyConfig, device: torch.device, prompts: Sequence[str]) -> None:
        """prompts: the texts that orders will name; they are encoded here, and the text encoders let go."""
        self._store, self._settings = store, settings
        self._encoded = EncodedPrompts()
        self._policy = load_told(
            checkpoint_path(settings.model),
            prompts,
            self._encoded,
            dtype=settings.engine.dtype,
            device=device,
            resolution_px=settings.size_px,
        ).to_channels_last()
        check_attention("policy.attention", settings.attention, self._policy.dtype, device)
        set_attention(self._policy.trainable, settings.attention)
        self._version: tuple[str, int] | None = None

    def roll(self, order: RolloutOrder) -> Rollout:
        """Latents at each image's mid steps, from its own generator; a walk goes on where the last one stopped."""
        policy, settings = self._policy, self._settings
        if self._version != (order.role, order.version):
            held = self._version[1] if self._version and self._version[0] == order.role else None
            load_published(policy, self._store, order.role, order.version, held)
            self._version = (order.role, order.version)
            if settings.compile and policy.network is policy.trainable:  # once it has its adapter
                policy.network = torch.compile(policy.trainable)
        generators = image_generators(order.seeds)
        cond = self._encoded.of([prompt.text for prompt in order.prompts], policy.device)
        schedule = policy.schedule(settings.num_steps, settings.sampler)
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
            version=order.version,
            prompts=order.prompts,
            mid_steps=order.mid_steps,
            latents=torch.stack(points).cpu().numpy(),
        )
