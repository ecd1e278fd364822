"""Stable Diffusion 1 and 2, and every pipeline shaped like them: a UNet told one text encoder's states."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from itercomp_rl.diffusion.denoise import Diffusion, Process
from itercomp_rl.diffusion.policy import ATTENTION, Conditioning


class StableDiffusion:
    """StableDiffusionPipeline; covers UNets that pool the text themselves (addition_embed_type "text")."""

    trainable_name: str = "unet"
    lora_targets: tuple[str, ...] = ATTENTION
    text_components: tuple[str, ...] = ("text_encoder", "tokenizer")
    patch_px: int = 1

    def process(self, pipeline: Any, latent_shape: tuple[int, int, int]) -> Process:
        return Diffusion(pipeline.scheduler.config)

    def latent_channels(self, pipeline: Any) -> int:
        return pipeline.unet.config.in_channels

    def native_size(self, pipeline: Any) -> int | Sequence[int]:
        return pipeline.unet.config.sample_size

    def encode(self, pipeline: Any, prompts: list[str], size_px: tuple[int, int], device: torch.device) -> Conditioning:
        tokens, _ = pipeline.encode_prompt(prompts, device, 1, False)
        return Conditioning(tokens=tokens)

    def has_zero_negative(self, pipeline: Any) -> bool:
        return False

    def call(self, network: Callable[..., Any], latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        return network(latents, timesteps, encoder_hidden_states=cond.tokens.to(latents.dtype), return_dict=False)[0]
