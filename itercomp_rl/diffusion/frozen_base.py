"""The network as its checkpoint has it, beside the policy that learns from it: what the policy can be held near to."""

import copy

import torch
from torch import Tensor, nn

from itercomp_rl.diffusion.lora import adapter_off
from itercomp_rl.diffusion.policy import Conditioning, Policy


class FrozenBase:
    """Predicts what the policy's checkpoint predicts, whatever the policy has learned since.

    A policy that learns an adapter is its own base with the adapter switched off. One whose own weights learn needs a
    copy of them, which is made here: before any weights but the checkpoint's are loaded.
    """

    def __init__(self, policy: Policy, *, learns_adapter: bool) -> None:
        self._policy = policy
        self.network: nn.Module | None = None if learns_adapter else copy.deepcopy(policy.trainable)

    @torch.no_grad()
    def predict(self, latents: Tensor, cond: Conditioning, timesteps_B: Tensor) -> Tensor:
        """The base's raw output [B, C, H, W] in float32, without gradient; arguments as of `Policy.predict`."""
        if self.network is not None:
            return self._policy.predict(latents, cond, timesteps_B, network=self.network)
        with adapter_off(self._policy.trainable):
            return self._policy.predict(latents, cond, timesteps_B)
