"""Stable Diffusion 3: a flow-matching transformer told two CLIP encoders and T5."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from itercomp_rl.diffusion.denoise import Flow, Process, shift_for_size
from itercomp_rl.diffusion.policy import JOINT_ATTENTION, Conditioning


class StableDiffusion3:
    """StableDiffusion3Pipeline; the T5 encoder may be absent from the checkpoint, its states are then zeros."""

    trainable_name: str = "transformer"
    lora_targets: tuple[str, ...] = JOINT_ATTENTION
    text_components: tuple[str, ...] = (
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
        "tokenizer",
        "tokenizer_2",
        "tokenizer_3",
    )
    patch_px: int = 2

    def process(self, pipeline: Any, latent_shape: tuple[int, int, int]) -> Process:
        patch = pipeline.transformer.config.patch_size
        num_tokens = (latent_shape[1] // patch) * (latent_shape[2] // patch)
        config = pipeline.scheduler.config
        return Flow(config, mu=shift_for_size(config, num_tokens, default_max_shift=1.16))

    def latent_channels(self, pipeline: Any) -> int:
        return pipeline.transformer.config.in_channels

    def native_size(self, pipeline: Any) -> int:
        return pipeline.transformer.config.sample_size

    def encode(self, pipeline: Any, prompts: list[str], size_px: tuple[int, int], device: torch.device) -> Conditioning:
        tokens, _, pooled, _ = pipeline.encode_prompt(prompts, None, None, device, 1, False)
        return Conditioning(tokens=tokens, pooled=pooled)

    def has_zero_negative(self, pipeline: Any) -> bool:
        return False

    def call(self, network: Callable[..., Any], latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        assert cond.pooled is not None, "SD3 conditioning comes from SD3's encode"
        return network(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=cond.tokens.to(latents.dtype),
            pooled_projections=cond.pooled.to(latents.dtype),
            return_dict=False,
        )[0]
