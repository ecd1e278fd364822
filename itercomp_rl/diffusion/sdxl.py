"""Stable Diffusion XL, IterComp's own policy: a UNet told two text encoders' states, a pooled vector and sizes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from itercomp_rl.diffusion.denoise import Diffusion, Process
from itercomp_rl.diffusion.policy import ATTENTION, Conditioning


class StableDiffusionXL:
    """StableDiffusionXLPipeline, base model; images are declared uncropped and of the size they are drawn at."""

    trainable_name: str = "unet"
    lora_targets: tuple[str, ...] = ATTENTION
    text_components: tuple[str, ...] = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    patch_px: int = 1

    def process(self, pipeline: Any, latent_shape: tuple[int, int, int]) -> Process:
        return Diffusion(pipeline.scheduler.config)

    def latent_channels(self, pipeline: Any) -> int:
        return pipeline.unet.config.in_channels

    def native_size(self, pipeline: Any) -> int | Sequence[int]:
        return pipeline.unet.config.sample_size

    def encode(self, pipeline: Any, prompts: list[str], size_px: tuple[int, int], device: torch.device) -> Conditioning:
        tokens, _, pooled, _ = pipeline.encode_prompt(prompts, None, device, 1, False)
        # original size, crop from the top left, target size: (512, 512, 0, 0, 512, 512) in the paper's setting
        time_ids = torch.tensor([[*size_px, 0, 0, *size_px]], dtype=torch.float32).repeat(len(prompts), 1)
        return Conditioning(tokens=tokens, pooled=pooled, time_ids=time_ids)

    def has_zero_negative(self, pipeline: Any) -> bool:
        return bool(pipeline.config.force_zeros_for_empty_prompt)

    def call(self, network: Callable[..., Any], latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        assert cond.pooled is not None, "SDXL conditioning comes from SDXL's encode"
        assert cond.time_ids is not None, "SDXL conditioning comes from SDXL's encode"
        return network(
            latents,
            timesteps,
            encoder_hidden_states=cond.tokens.to(latents.dtype),
            added_cond_kwargs={"text_embeds": cond.pooled.to(latents.dtype), "time_ids": cond.time_ids},
            return_dict=False,
        )[0]
