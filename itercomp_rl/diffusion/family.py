"""From a checkpoint to a policy: the table of the families that can learn."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from torch import Tensor

from itercomp_rl.diffusion.checkpoint import WEIGHTS_NEEDED, loading, policy_checkpoint
from itercomp_rl.diffusion.flux import Flux
from itercomp_rl.diffusion.policy import Family, Policy
from itercomp_rl.diffusion.sd import StableDiffusion
from itercomp_rl.diffusion.sd3 import StableDiffusion3
from itercomp_rl.diffusion.sdxl import StableDiffusionXL
from itercomp_rl.errors import CheckpointError, ConfigError

FAMILIES: dict[str, tuple[type[DiffusionPipeline], Family]] = {
    "StableDiffusionPipeline": (StableDiffusionPipeline, StableDiffusion()),
    # Stable Diffusion 1 with GLIGEN's layers, idle unless a gallery system gives boxes.
    "StableDiffusionGLIGENPipeline": (StableDiffusionPipeline, StableDiffusion()),
    "LLMGroundedDiffusionPipeline": (StableDiffusionPipeline, StableDiffusion()),
    "StableDiffusionXLPipeline": (StableDiffusionXLPipeline, StableDiffusionXL()),
    "StableDiffusion3Pipeline": (StableDiffusion3Pipeline, StableDiffusion3()),
    "FluxPipeline": (FluxPipeline, Flux()),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Part of some pipelines, never of a policy: they judge or read images.
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def load_policy(
    folder_or_hub_id: str | Path,
    *,
    dtype: str = "fp32",
    device: str | torch.device = "cpu",
    resolution_px: int | None = None,
    with_text_encoders: bool = True,
    with_vae: bool = True,
) -> Policy:
    """A policy in evaluation mode, all its weights frozen; a learner unfreezes `trainable`.

    dtype: of the network and the text encoders; the VAE is always float32. resolution_px: side of its square images,
    None for the checkpoint's own. with_text_encoders: False spares their memory where prompts come encoded. with_vae:
    False spares its memory where nothing but latents is needed.
    Raises: CheckpointError if the checkpoint cannot be a policy; ConfigError for an unknown dtype or resolution.
    """
    checkpoint = policy_checkpoint(folder_or_hub_id)
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}: must be one of {', '.join(DTYPES)}")
    if dtype == "fp16" and torch.device(device).type == "cpu":
        raise ConfigError(
            "dtype is 'fp16' on a CPU, which computes it slowly and in part not at all: take bf16 or fp32"
        )
    pipeline_class, family = FAMILIES[checkpoint.pipeline]
    # A part that the checkpoint lacks, such as SD3's T5, must be left out by name: diffusers asks for it otherwise.
    absent = set(family.text_components) - {part.name for part in checkpoint.parts}
    left_out = (set(_UNUSED) | absent) & set(inspect.signature(pipeline_class).parameters)
    if not with_text_encoders:
        left_out |= set(family.text_components)
    if not with_vae:
        left_out.add("vae")
    checkpoint.log_variant()
    with loading(folder_or_hub_id):
        pipeline = pipeline_class.from_pretrained(
            str(folder_or_hub_id),
            dtype={"default": DTYPES[dtype], "vae": torch.float32},
            use_safetensors=True,
            variant=checkpoint.variant,
            **dict.fromkeys(left_out),
        )
        vae_config = None if with_vae else _vae_config(folder_or_hub_id)
    for component_name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
        if component_name.startswith("tokenizer") and component is not None and component.pad_token is None:
            raise CheckpointError(
                f"{folder_or_hub_id}: {component_name} has no padding token, and prompts are padded to one length: "
                "give its tokenizer_config.json a pad_token"
            )
    return Policy(pipeline.to(device), family, resolution_px=resolution_px, vae_config=vae_config)


def load_network_weights(folder_or_hub_id: str | Path) -> dict[str, Tensor]:
    """The weights of the network that learns, in float32 on the CPU: those of the files, whatever they are kept in."""
    checkpoint = policy_checkpoint(folder_or_hub_id)
    name = FAMILIES[checkpoint.pipeline][1].trainable_name
    network_class: Any = getattr(diffusers, WEIGHTS_NEEDED[checkpoint.pipeline][name])  # Any: one of three
    with loading(folder_or_hub_id):
        network = network_class.from_pretrained(
            str(folder_or_hub_id),
            subfolder=name,
            torch_dtype=torch.float32,
            use_safetensors=True,
            variant=checkpoint.variant,
        )
    return {name: p.detach() for name, p in network.named_parameters()}


def _vae_config(folder_or_hub_id: str | Path) -> Mapping[str, Any]:
    """The configuration of a checkpoint's VAE with every default filled in; no weights are read."""
    config: Any = AutoencoderKL.load_config(str(folder_or_hub_id), subfolder="vae")  # Any: declared as several forms
    with torch.device("meta"):
        made: Any = AutoencoderKL.from_config(config)  # Any: likewise
    return made.config
