"""Prompts as the network is told them: each encoded once in a process, then the text encoders leave its memory."""

from collections.abc import Sequence
from pathlib import Path

import torch

from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.policy import Conditioning, Policy

BATCH = 32  # prompts through the text encoders at once


class EncodedPrompts:
    """Conditioning by prompt, kept on the CPU: SDXL's takes .3 MiB a prompt in bf16, FLUX's 4 MiB."""

    def __init__(self) -> None:
        self._kept: dict[str, Conditioning] = {}

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """Those not encoded yet, each once."""
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._kept]

    def add(self, policy: Policy, prompts: Sequence[str]) -> None:
        """Encode what is missing. Raises: ConfigError if something is, and the policy has no text encoders."""
        new = self.missing(prompts)
        for start in range(0, len(new), BATCH):
            part = new[start : start + BATCH]
            encoded = policy.encode(part).to("cpu")
            self._kept.update({prompt: encoded.index([row]) for row, prompt in enumerate(part)})

    def of(self, prompts: Sequence[str], device: torch.device) -> Conditioning:
        """Conditioning of prompts that were added, in this order, on the device."""
        return Conditioning.cat([self._kept[prompt] for prompt in prompts]).to(device)


def load_with_encoded_prompts(
    folder_or_hub_id: str | Path,
    prompts: Sequence[str],
    encoded: EncodedPrompts,
    *,
    dtype: str,
    device: torch.device,
    resolution_px: int | None,
) -> Policy:
    """A policy without text encoders, with every prompt in `encoded`, and the empty one that guidance needs.

    The text encoders are on the device before the network is: its memory never holds both. Where nothing is missing
    they are not even read. Raises: as `load_policy`.
    """
    missing = encoded.missing([*prompts, ""])
    policy = load_policy(folder_or_hub_id, dtype=dtype, resolution_px=resolution_px, with_text_encoders=bool(missing))
    if missing:
        policy.text_encoders_to(device)
        encoded.add(policy, missing)
        policy.drop_text_encoders()
    policy.empty_prompt = encoded.of([""], device)
    return policy.to(device)
