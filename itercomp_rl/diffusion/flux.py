"""FLUX: a flow-matching transformer over packed latents, told T5, a pooled CLIP vector and, in -dev, a guidance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from itercomp_rl.diffusion.denoise import Flow, Process, shift_for_size
from itercomp_rl.diffusion.policy import JOINT_ATTENTION, Conditioning

# B images, C H W latents, D transformer inputs, S = H/2 * W/2 packed patches

DISTILLED_GUIDANCE = 3.5  # FLUX.1-dev's pipeline default
NUM_TEXT_TOKENS = 512  # FLUX.1-dev; schnell's pipeline takes as many


class Flux:
    """FluxPipeline; latents stay [B, C, H, W] outside this class, each 2 x 2 patch is packed for the transformer.

    -dev is told its guidance; -schnell knows none, so that guidance above 1 is classifier-free for it.
    """

    trainable_name: str = "transformer"
    lora_targets: tuple[str, ...] = JOINT_ATTENTION
    text_components: tuple[str, ...] = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    patch_px: int = 2

    def process(self, pipeline: Any, latent_shape: tuple[int, int, int]) -> Process:
        num_tokens = (latent_shape[1] // 2) * (latent_shape[2] // 2)
        config = pipeline.scheduler.config
        mu = shift_for_size(config, num_tokens, default_max_shift=1.15)
        return Flow(config, mu=mu, explicit_sigmas=not config.get("use_flow_sigmas", False))

    def latent_channels(self, pipeline: Any) -> int:
        return pipeline.transformer.config.in_channels // 4

    def native_size(self, pipeline: Any) -> int:
        return pipeline.default_sample_size

    def encode(self, pipeline: Any, prompts: list[str], size_px: tuple[int, int], device: torch.device) -> Conditioning:
        tokens, pooled, _ = pipeline.encode_prompt(prompts, None, device, 1, max_sequence_length=NUM_TEXT_TOKENS)
        has_guidance = pipeline.transformer.config.guidance_embeds
        guidance = torch.full((len(prompts),), DISTILLED_GUIDANCE) if has_guidance else None
        return Conditioning(tokens=tokens, pooled=pooled, guidance=guidance)

    def has_zero_negative(self, pipeline: Any) -> bool:
        return False

    def call(self, network: Callable[..., Any], latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        assert cond.pooled is not None, "FLUX conditioning comes from FLUX's encode"
        height, width = latents.shape[-2:]
        output = network(
            hidden_states=pack(latents),
            timestep=timesteps / 1000,  # the transformer multiplies it back
            guidance=cond.guidance,
            pooled_projections=cond.pooled.to(latents.dtype),
            encoder_hidden_states=cond.tokens.to(latents.dtype),
            txt_ids=torch.zeros(cond.tokens.shape[1], 3, device=latents.device),
            img_ids=patch_places(height // 2, width // 2, latents.device),
            return_dict=False,
        )[0]
        return unpack(output, height, width)


def pack(latents: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, S, 4C], patches row by row, within one: channel, row, column."""
    B, C, H, W = latents.shape
    patches = latents.reshape(B, C, H // 2, 2, W // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(B, (H // 2) * (W // 2), 4 * C)


def unpack(packed: Tensor, height: int, width: int) -> Tensor:
    """[B, S, 4C] -> [B, C, height, width], the inverse of `pack`."""
    B, _, D = packed.shape
    patches = packed.reshape(B, height // 2, width // 2, D // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(B, D // 4, height, width)


def patch_places(num_rows: int, num_columns: int, device: torch.device) -> Tensor:
    """Rotary positions of the patches, [S, 3]: zero, row, column."""
    places = torch.zeros(num_rows, num_columns, 3, device=device)
    places[..., 1] = torch.arange(num_rows, device=device)[:, None]
    places[..., 2] = torch.arange(num_columns, device=device)[None, :]
    return places.reshape(-1, 3)
