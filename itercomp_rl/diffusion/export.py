"""A policy as files that plain diffusers loads: a whole pipeline, and the adapter alone where one was learnt."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from itercomp_rl.diffusion.denoise import Diffusion
from itercomp_rl.diffusion.lora import has_lora
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.errors import CheckpointError
from itercomp_rl.files.whole import appearing

ADAPTER = "pytorch_lora_weights.safetensors"
KOHYA_ADAPTER = "pytorch_lora_weights_kohya.safetensors"


def export_policy(policy: Policy, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write the pipeline to a new folder, which appears complete or not at all; the policy is used up by it.

    Its scheduler is the one the policy draws with (DDIM for SD and SDXL), so that the pipeline draws the same images.
    An adapter is merged into the pipeline's weights and also written by itself, for `load_lora_weights` on the base.
    Its scale alpha / rank is multiplied into its weights and alpha is stated as the rank, so that loaders which read no
    metadata apply the strength that was trained. UNets also get a file in the key names of the kohya tools.
    Args: dtype: that the network and the text encoders are saved in; None as they are. The VAE stays float32.
    Raises: CheckpointError if the folder exists.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists: an export is written once, choose another folder")
    with appearing(folder) as partial:
        partial.mkdir()
        if has_lora(policy.trainable):
            _save_adapter(policy, partial)
            _merge_adapter(policy)
        if dtype is not None:
            policy.trainable.to(dtype)
            policy.text_encoders_to(dtype)
        if isinstance(policy.process, Diffusion):
            config = policy.pipeline.scheduler.config
            # DDIM clips unless told not to; a scheduler without the setting never does
            clips = config.get("clip_sample", False)
            policy.pipeline.scheduler = DDIMScheduler.from_config(config, clip_sample=clips)
        policy.pipeline.save_pretrained(partial, safe_serialization=True)


def check_adapter(folder: Path) -> None:
    """Raises: CheckpointError if an exported adapter's strength is in diffusers' metadata, where few loaders look."""
    path = folder / ADAPTER
    if not path.is_file():
        return
    with safe_open(path, "pt") as file:
        settings = json.loads((file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY, "{}"))
    for name, alpha in settings.items():
        rank = settings.get(f"{name.removesuffix('lora_alpha')}r")
        if name.endswith(".lora_alpha") and alpha != rank:
            raise CheckpointError(
                f"{path} states alpha {alpha:g} and rank {rank} in its metadata alone, so most loaders would apply the "
                "adapter at another strength: export the run again"
            )


def _save_adapter(policy: Policy, folder: Path) -> None:
    network: Any = policy.trainable  # Any: the adapter's methods are a diffusers mixin's
    name = policy.family.trainable_name
    settings = network.peft_config["default"].to_dict()
    tensors = _at_scale_one(get_peft_model_state_dict(network), settings["lora_alpha"] / settings["r"])
    settings["lora_alpha"] = settings["r"]
    type(policy.pipeline).save_lora_weights(
        folder,
        **{
            f"{name}_lora_layers": tensors,
            f"{name}_lora_adapter_metadata": settings,
        },
        weight_name=ADAPTER,
    )
    # The kohya tools name the layers of transformers after the original code's modules, for which there is no
    # conversion in diffusers.
    if name == "unet":
        kohya = convert_state_dict_to_kohya({f"unet.{key}": tensor for key, tensor in tensors.items()})
        save_file(kohya, folder / KOHYA_ADAPTER, metadata={"format": "pt"})


def _at_scale_one(tensors: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The adapter with its scale multiplied into every B, so that B A needs no factor; computed in float32."""
    return {
        name: (tensor.float() * scale).to(tensor.dtype) if name.endswith(".lora_B.weight") else tensor
        for name, tensor in ((name, tensor.detach().cpu().contiguous()) for name, tensor in tensors.items())
    }


def _merge_adapter(policy: Policy) -> None:
    network: Any = policy.trainable
    network.fuse_lora()
    network.unload_lora()
