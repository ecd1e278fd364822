"""What a policy checkpoint must be, checked from its index alone: no torch, so a bad configuration fails at once."""

import json
from pathlib import Path
from typing import Any

from itercomp_rl.errors import CheckpointError, ConfigError
from itercomp_rl.files.tensors import check_whole

# Pipeline class of model_index.json -> the components whose weights a policy needs, besides text encoders.
WEIGHTS_NEEDED = {
    "StableDiffusionPipeline": {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"},
    "StableDiffusionGLIGENPipeline": {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"},
    "LLMGroundedDiffusionPipeline": {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"},
    "StableDiffusionXLPipeline": {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"},
    "StableDiffusion3Pipeline": {"transformer": "SD3Transformer2DModel", "vae": "AutoencoderKL"},
    "FluxPipeline": {"transformer": "FluxTransformer2DModel", "vae": "AutoencoderKL"},
}

_DIFFUSION, _FLOW = ("ddim", "ddpm"), ("euler", "renoise")
SCHEDULERS = {
    "StableDiffusionPipeline": _DIFFUSION,
    "StableDiffusionXLPipeline": _DIFFUSION,
    "StableDiffusion3Pipeline": _FLOW,
    "FluxPipeline": _FLOW,
}

# Drawn with by the gallery, never learned: the added layers would get no gradient.
GALLERY_ONLY = ("StableDiffusionGLIGENPipeline", "LLMGroundedDiffusionPipeline")


def check_checkpoint(folder_or_hub_id: str | Path) -> str:
    """The pipeline class of a diffusers checkpoint that can be a policy; reads its index, or fetches it from the hub.

    Raises: CheckpointError if there is none, its class is not supported, a component is of another class, or a folder
    lacks safetensors weights (pickled weights are never read) or has damaged ones.
    """
    index = load_index(folder_or_hub_id)
    name = index.get("_class_name")
    if name not in WEIGHTS_NEEDED:
        raise CheckpointError(
            f"{folder_or_hub_id} is a {name} checkpoint: a policy must be one of {', '.join(WEIGHTS_NEEDED)}"
        )
    for component, class_needed in WEIGHTS_NEEDED[name].items():
        found = (index.get(component) or [None, None])[1]
        if found != class_needed:
            raise CheckpointError(f"{folder_or_hub_id} has a {component} of class {found}: {class_needed} is needed")
    if Path(folder_or_hub_id).is_dir():
        encoders = [key for key, what in index.items() if key.startswith("text_encoder") and what and what[1]]
        for component in (*WEIGHTS_NEEDED[name], *encoders):
            _check_weights(Path(folder_or_hub_id) / component)
    return name


def check_drawing(folder_or_hub_id: str | Path) -> str:
    """As check_checkpoint, for a checkpoint that only draws from text: any other pipeline class will do as well.

    Whether diffusers has the class, and whether it makes pictures, shows when it is loaded.
    """
    name = load_index(folder_or_hub_id).get("_class_name")
    if not isinstance(name, str):
        raise CheckpointError(f"{folder_or_hub_id} is of class {name}: code of a checkpoint's own is never run")
    return check_checkpoint(folder_or_hub_id) if name in WEIGHTS_NEEDED else name


def check_scheduler(pipeline: str, scheduler: str) -> None:
    """Raises: ConfigError if policy.scheduler is not one of the noise process of this pipeline class."""
    known = SCHEDULERS[pipeline]
    if scheduler not in known:
        raise ConfigError(
            f"policy.scheduler is {scheduler!r} and policy.model a {pipeline}: must be {' or '.join(known)}"
        )


def load_index(folder_or_hub_id: str | Path) -> dict[str, Any]:
    """model_index.json of a folder, or fetched from the hub. Raises: CheckpointError if there is none."""
    folder = Path(folder_or_hub_id)
    path = folder / "model_index.json" if folder.is_dir() else _fetch_index(str(folder_or_hub_id))
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no model_index.json: give a folder made by a diffusers pipeline's save_pretrained"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(index, dict):
        raise CheckpointError(f"{path} holds a {type(index).__name__}: the index of a diffusers pipeline is an object")
    return index


def _fetch_index(hub_id: str) -> Path:
    # Imported here: a local folder, the usual case, must not pay for the hub client.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(hub_id, "model_index.json"))
    except HFValidationError as error:
        raise CheckpointError(f"{hub_id} is neither a folder here nor a hub id like 'owner/name'") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{hub_id} is no folder here, and its model_index.json could not be fetched from the hub: {error}"
        ) from error


def _check_weights(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json: the checkpoint is incomplete")
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no .safetensors weights: save the pipeline with safe_serialization=True")
    for file in files:
        check_whole(file)
