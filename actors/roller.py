"""Step 5 of a prompt's road: a roller denoises without gradient, under the newest policy, up to the mid step."""

import secrets
from collections.abc import Sequence

import torch

from itercomp_rl.config.schema import PolicyConfig
from itercomp_rl.diffusion.attention_kernel import check_attention, set_attention
from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.encoded import EncodedPrompts, load_with_encoded_prompts
from itercomp_rl.diffusion.published import load_published
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.items import Rollout, RolloutOrder
from itercomp_rl.store import weights
from itercomp_rl.store.retention import Lease, lease
from itercomp_rl.store.store import Store
from itercomp_rl.store.weights import Version

LEASE_S = 900.0  # longer than a version takes to load


class Roller:
    """One copy of the policy, refreshed from the store between rollouts, never within one."""

    def __init__(self, store: Store, settings: PolicyConfig, device: torch.device, prompts: Sequence[str]) -> None:
        """prompts: the texts that orders will name; they are encoded here, and the text encoders let go."""
        self._store, self._settings = store, settings
        self._encoded = EncodedPrompts()
        self._policy = load_with_encoded_prompts(
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
        self._name = f"roller-{secrets.token_hex(6)}"

    def roll(self, order: RolloutOrder) -> Rollout:
        """Latents at each image's mid steps, from its own generator; a walk goes on where the last one stopped."""
        policy, settings = self._policy, self._settings
        version = self._refresh(order)
        generators = image_generators(order.seeds)
        cond = self._encoded.of([prompt.text for prompt in order.prompts], policy.device)
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
            version=version,
            prompts=order.prompts,
            mid_steps=order.mid_steps,
            latents=torch.stack(points).cpu().numpy(),
        )

    def _refresh(self, order: RolloutOrder) -> int:
        """Load the version to roll out under, if it is not the one held; returns its number."""
        version = self._to_load(order)
        if version is not None:
            held = self._version[1] if self._version and self._version[0] == order.role else None
            load_published(self._policy, version, held)
            self._version = (order.role, version.number)
            if self._settings.compile and self._policy.network is self._policy.trainable:  # once it has its adapter
                self._policy.network = torch.compile(self._policy.trainable)
        assert self._version is not None
        return self._version[1]

    def _to_load(self, order: RolloutOrder) -> Version | None:
        """The version to load for this order; None where the one held is right.

        Where the learner may run ahead of its rollouts, an order may have waited for long: by now a newer version is
        there, which is less stale, while the collector may have deleted the ordered one. The newest is then taken,
        under a lease, so that the collector leaves it.
        """
        role = order.role
        if not self._settings.max_policy_lag:
            is_held = self._version == (role, order.version)
            return None if is_held else weights.open_version(self._store, role, order.version)
        while True:
            number = max(order.version, weights.latest(self._store, role) or 0)
            if self._version == (role, number):
                return None
            expires_s = self._store.clock() + LEASE_S
            lease(self._store, Lease(reader=self._name, role=role, version=number, expires_s=expires_s))
            if found := weights.find(self._store, role, number):
                return found
            if (weights.latest(self._store, role) or 0) <= number:  # neither it nor a newer one is there
                return weights.open_version(self._store, role, number)
