"""A policy as files that plain diffusers loads: a whole pipeline, and the adapter alone where one was learnt."""

from pathlib import Path
from typing import Any

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from peft import get_peft_model_state_dict

from itercomp_rl.diffusion.denoise import Diffusion
from itercomp_rl.diffusion.lora import has_lora
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.errors import CheckpointError
from itercomp_rl.files.whole import appearing

ADAPTER = "pytorch_lora_weights.safetensors"


def export_policy(policy: Policy, folder: Path) -> None:
    """Write the pipeline to a new folder, which appears complete or not at all; the policy is used up by it.

    Its scheduler is the one the policy draws with (DDIM for SD and SDXL), so that the pipeline draws the same images.
    An adapter is merged into the pipeline's weights and also written apart, for `load_lora_weights` on the base.
    Raises: CheckpointError if the folder exists.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists: an export is written once, choose another folder")
    with appearing(folder) as partial:
        partial.mkdir()
        if has_lora(policy.trainable):
            _save_adapter(policy, partial)
            _merge_adapter(policy)
        if isinstance(policy.process, Diffusion):
            config = policy.pipeline.scheduler.config
            # DDIM clips unless told not to; a scheduler without the setting never does
            clips = config.get("clip_sample", False)
            policy.pipeline.scheduler = DDIMScheduler.from_config(config, clip_sample=clips)
        policy.pipeline.save_pretrained(partial, safe_serialization=True)


def _save_adapter(policy: Policy, folder: Path) -> None:
    network: Any = policy.trainable  # Any: the adapter's methods are a diffusers mixin's
    name = policy.family.trainable_name
    settings = network.peft_config["default"].to_dict()  # alpha is not in the weights, and rank alone is not the scale
    type(policy.pipeline).save_lora_weights(
        folder,
        **{
            f"{name}_lora_layers": get_peft_model_state_dict(network),
            f"{name}_lora_adapter_metadata": settings,
        },
        weight_name=ADAPTER,
    )


def _merge_adapter(policy: Policy) -> None:
    network: Any = policy.trainable
    network.fuse_lora()
    network.unload_lora()
