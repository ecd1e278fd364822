"""How big a model is, from its configuration files alone: parameters, and what a backward pass keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from itercomp_rl.diffusion.checkpoint import WEIGHTS_NEEDED, load_index
from itercomp_rl.diffusion.family import FAMILIES
from itercomp_rl.diffusion.lora import check_targets
from itercomp_rl.diffusion.policy import Conditioning, Family
from itercomp_rl.errors import CheckpointError

_VAE: Mapping[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
_VAE_16: Mapping[str, Any] = {**_VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}

_SD3: Mapping[str, Any] = {
    "sample_size": 128,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the size of a pipeline follows from: its class, two configurations, and the parameters that encode text."""

    pipeline: str
    network: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_params: int


# Models that shipped configs name, so that a run of them can be planned without a network. Counts are of the files.
KNOWN: dict[str, Architecture] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Architecture(
        pipeline="StableDiffusionPipeline",
        network={"sample_size": 64, "cross_attention_dim": 768},
        vae=_VAE,
        text_params=123_060_480,
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": Architecture(
        pipeline="StableDiffusionXLPipeline",
        network={
            "sample_size": 128,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 2048,
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        vae=_VAE,
        text_params=123_060_480 + 694_659_840,
    ),
    "stabilityai/stable-diffusion-3-medium-diffusers": Architecture(
        pipeline="StableDiffusion3Pipeline",
        network={
            **_SD3,
            "pos_embed_max_size": 192,
        },
        vae=_VAE_16,
        text_params=123_650_304 + 694_659_840 + 4_762_310_656,
    ),
    "stabilityai/stable-diffusion-3.5-medium": Architecture(
        pipeline="StableDiffusion3Pipeline",
        network={
            **_SD3,
            "pos_embed_max_size": 384,
            "dual_attention_layers": list(range(13)),
            "qk_norm": "rms_norm",
        },
        vae=_VAE_16,
        text_params=123_650_304 + 694_659_840 + 4_762_310_656,
    ),
    "black-forest-labs/FLUX.1-dev": Architecture(
        pipeline="FluxPipeline",
        network={"guidance_embeds": True},
        vae=_VAE_16,
        text_params=123_060_480 + 4_762_310_656,
    ),
}
_TEXT_TOKENS = {
    "StableDiffusionPipeline": 77,
    "StableDiffusionXLPipeline": 77,
    "StableDiffusion3Pipeline": 77 + 256,
    "FluxPipeline": 512,
}


def architecture(model: str) -> Architecture:
    """Of a diffusers folder or hub id; only configuration files are read, or fetched.

    Raises: CheckpointError if one is missing or is of a class that diffusers or transformers does not have.
    """
    if model in KNOWN:
        return KNOWN[model]
    index = load_index(model)
    pipeline = index["_class_name"]
    text = [name for name in index if name.startswith("text_encoder") and index[name] and index[name][1]]
    return Architecture(
        pipeline=pipeline,
        network=_config(model, FAMILIES[pipeline][1].trainable_name),
        vae=_config(model, "vae"),
        text_params=sum(_text_params(index[name][1], _config(model, name)) for name in text),
    )


def _config(model: str, component: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    is_here = Path(model).is_dir()
    path = Path(model) / component / "config.json"
    path = path if is_here else Path(hf_hub_download(model, f"{component}/config.json"))
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the checkpoint is incomplete")
    return json.loads(path.read_text(encoding="utf-8"))


def _text_params(class_name: str, config: dict[str, Any]) -> int:
    model_class = getattr(transformers, class_name, None)
    if model_class is None:
        raise CheckpointError(f"transformers {transformers.__version__} has no {class_name}")
    with torch.device("meta"):
        return num_params(model_class(model_class.config_class.from_dict(config)))


def num_params(module: nn.Module) -> int:
    """All parameters, trained or not."""
    return sum(p.numel() for p in module.parameters())


@cache
def drawn_px(model: str, size_px: int | None) -> int:
    """The side of a model's images: as told, or as its configuration says."""
    found = architecture(model)
    if size_px is not None:
        return size_px
    if found.pipeline == "FluxPipeline":
        return 1024
    return int(found.network["sample_size"]) * 2 ** (len(found.vae["block_out_channels"]) - 1)


@cache
def drawing_params(model: str) -> tuple[int, int]:
    """Parameters of what draws in a chosen dtype (network and text encoders), and of the VAE, which is fp32."""
    found = architecture(model)
    family = FAMILIES[found.pipeline][1]
    network = _build(WEIGHTS_NEEDED[found.pipeline][family.trainable_name], found.network, torch.float32)
    return num_params(network) + found.text_params, num_params(_build("AutoencoderKL", found.vae, torch.float32))


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Counts of parameters, and bytes that the backward pass of one image keeps: of the network, and of the VAE."""

    pipeline: str
    resolution_px: int
    network_params: int
    vae_params: int
    text_params: int
    lora_params: int  # for a rank of 1; proportional to the rank
    prompt_numbers: int  # that tell the network one prompt
    network_bytes: int
    vae_bytes: int


@cache
def sizes(
    model: str,
    resolution_px: int | None = None,
    dtype: torch.dtype = torch.float32,
    recomputes: bool = False,
    targets: tuple[str, ...] = (),
) -> Sizes:
    """Measured by running the model on the meta device, where tensors have shapes and no content.

    recomputes: with gradient checkpointing. targets: of LoRA, () for the family's own.
    """
    found = architecture(model)
    family = FAMILIES[found.pipeline][1]
    network = _build(WEIGHTS_NEEDED[found.pipeline][family.trainable_name], found.network, dtype)
    check_targets(network, targets)
    vae = _build("AutoencoderKL", found.vae, torch.float32)
    told = _conditioning(network, found.pipeline)
    factor = 2 ** (len(found.vae["block_out_channels"]) - 1)
    side = resolution_px or (1024 if found.pipeline == "FluxPipeline" else network.config.sample_size * factor)
    latents = (1, vae.config.latent_channels, side // factor, side // factor)
    return Sizes(
        pipeline=found.pipeline,
        resolution_px=side,
        network_params=num_params(network),
        vae_params=num_params(vae),
        text_params=found.text_params,
        lora_params=_lora_params(network, targets or family.lora_targets),
        prompt_numbers=told.tokens.numel() + (0 if told.pooled is None else told.pooled.numel()),
        network_bytes=kept_bytes(network, lambda: _call(network, family, told, latents), recomputes),
        vae_bytes=kept_bytes(vae, lambda: _decode(vae, latents), recomputes),
    )


def _build(class_name: str, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    model_class = getattr(diffusers, class_name)
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            return model_class.from_config(known)
    finally:
        torch.set_default_dtype(before)


def _lora_params(network: nn.Module, targets: tuple[str, ...]) -> int:
    layers = [part for name, part in network.named_modules() if name.endswith(tuple("." + t for t in targets))]
    return sum(part.in_features + part.out_features for part in layers if isinstance(part, nn.Linear))


def _conditioning(network: Any, pipeline: str) -> Conditioning:
    """Of one image, without content."""
    config = network.config
    width = config.get("joint_attention_dim") or config.cross_attention_dim
    pooled = config.get("pooled_projection_dim")
    if time_dim := config.get("addition_time_embed_dim"):
        pooled = config.projection_class_embeddings_input_dim - 6 * time_dim
    with torch.device("meta"):
        return Conditioning(
            tokens=torch.empty(1, _TEXT_TOKENS[pipeline], width),
            pooled=None if pooled is None else torch.empty(1, pooled),
            time_ids=torch.empty(1, 6) if time_dim else None,
            guidance=torch.empty(1) if config.get("guidance_embeds") else None,
        )


def _call(network: Any, family: Family, cond: Conditioning, latents: tuple[int, ...]) -> Tensor:
    with torch.device("meta"):
        return family.call(network, torch.empty(latents, dtype=network.dtype), torch.empty(1), cond)


def _decode(vae: Any, latents: tuple[int, ...]) -> Tensor:
    with torch.device("meta"):
        return vae.decode(torch.empty(latents, requires_grad=True), return_dict=False)[0]


def kept_bytes(module: Any, forward: Callable[[], Tensor], recomputes: bool = False) -> int:
    """Bytes that autograd keeps between a forward pass and its backward pass, the module's own weights left out.

    With recomputation: what every block is given, and the most that a single block keeps while it is done again.
    """
    own = {p.untyped_storage()._cdata for p in (*module.parameters(), *module.buffers())}
    blocks: list[int] = [0]
    inputs: dict[int, Tensor] = {}

    def block(part: Callable[..., Any], *given: Any) -> Any:
        inputs.update({t.untyped_storage()._cdata: t for t in given if isinstance(t, Tensor)})
        with _keeping(own) as kept:
            result = part(*given)
        blocks.append(_num_bytes(kept))
        return result

    if recomputes:
        module.enable_gradient_checkpointing(block)
    try:
        with _keeping(own) as kept, _FusedAttention():
            forward()
    finally:
        if recomputes:
            module.disable_gradient_checkpointing()
    return _num_bytes({**kept, **inputs}) + max(blocks)


@contextmanager
def _keeping(own: set[int]) -> Iterator[dict[int, Tensor]]:
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in own:
            kept[key] = tensor  # held, so that no other storage takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _num_bytes(tensors: Mapping[int, Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out


class _FusedAttention(TorchFunctionMode):
    """Attention as GPUs run it: what is kept is queries, keys, values and the result, never the table of weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            return _Attention.apply(given["query"], given["key"], given["value"])
        return func(*args, **(kwargs or {}))
