"""Step 5 of a prompt's road: a roller denoises without gradient, under the policy version told, up to the mid step."""

import torch

from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.items import Rollout, RolloutOrder
from itercomp_rl.models import checkpoint_path
from itercomp_rl.schema import PolicyConfig
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store


class Roller:
    """One copy of the policy, refreshed from the store between rollouts, never within one."""

    def __init__(self, store: Store, settings: PolicyConfig, device: torch.device) -> None:
        self._store, self._settings = store, settings
        self._policy = load_policy(checkpoint_path(settings.model), dtype=settings.engine.dtype, device=device)
        self._version: tuple[str, int] | None = None

    def roll(self, order: RolloutOrder) -> Rollout:
        """Latents at each image's mid step, drawn from its own generator."""
        if self._version != (order.role, order.version):
            self._policy.trainable.load_state_dict(weights.load(self._store, order.role, order.version))
            self._version = (order.role, order.version)
        policy, settings = self._policy, self._settings
        generators = image_generators(order.seeds)
        latents = policy.denoise_to(
            policy.start_latents(generators),
            policy.encode([prompt.text for prompt in order.prompts]),
            policy.schedule(settings.num_steps, settings.sampler),
            (0, list(order.mid_steps)),
            generators,
        )
        return Rollout(
            index=order.index,
            version=order.version,
            prompts=order.prompts,
            mid_steps=order.mid_steps,
            latents=latents.cpu().numpy(),
        )
