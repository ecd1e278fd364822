"""Tiny random checkpoints that layout systems draw with: Stable Diffusion 1, GLIGEN, InstanceDiffusion."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionGLIGENPipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, ConvNextConfig

from itercomp_rl.gallery.instance_diffusion.checkpoint import PORT_FILE, layer_names, original_name
from itercomp_rl.gallery.instance_diffusion.layers import InstanceLayers
from itercomp_rl.gallery.instance_diffusion.unifusion import UniFusion
from tests.parts.checkpoints import clip_text_config, tiny_vae, word_tokenizer

LENGTH = 16  # of the tokenizer


def make_unet(*, attention_type: str = "default") -> UNet2DConditionModel:
    """Shaped like Stable Diffusion 1's: attention in all blocks but the innermost, epsilon prediction."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
        attention_type=attention_type,
    )


def make_sd1(folder: Path, *, seed: int = 0) -> Path:
    """A StableDiffusionPipeline of 16 px images."""
    torch.manual_seed(seed)
    StableDiffusionPipeline(unet=make_unet(), **_rest()).save_pretrained(folder)
    return folder


def make_gligen(folder: Path, *, seed: int = 0, gate: float = 1.0) -> Path:
    """A StableDiffusionGLIGENPipeline of 16 px images whose gates are open by tanh(gate)."""
    torch.manual_seed(seed)
    unet = make_unet(attention_type="gated")
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith(("alpha_attn", "alpha_dense")):
                parameter.fill_(gate)
    StableDiffusionGLIGENPipeline(unet=unet, **_rest()).save_pretrained(folder)
    return folder


def make_layers(unet: Any, *, seed: int = 0) -> InstanceLayers:
    """InstanceDiffusion's layers at random, gates and scales included, for a UNet made above."""
    torch.manual_seed(seed)
    convnext = ConvNextConfig(hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1])
    layers = InstanceLayers(unet, UniFusion(in_dim=32, out_dim=32, mid_dim=16, convnext=convnext, seg_side=64))
    with torch.no_grad():
        for name, parameter in layers.named_parameters():
            if name.startswith("scaleu.") or "alpha_" in name or ".null_" in name:
                parameter.normal_(std=0.5)
            if "linears_list" in name or "linear.weight" in name or ".attn.to_" in name:
                parameter.mul_(4)  # else a few boxes drown among a hundred empty slots
    return layers.eval()


def instance_state(unet: Any, layers: InstanceLayers, *, original: bool) -> dict[str, Tensor]:
    """The whole UNet with its added layers under the released checkpoint's names, or the diffusers port's."""
    own = {original_name(name, unet) if original else name: tensor for name, tensor in unet.state_dict().items()}
    names = layer_names(layers, unet, original=original)
    state = layers.state_dict()
    added = {theirs: state[ours] for theirs, ours in names.items()}
    return {name: tensor.detach().clone().contiguous() for name, tensor in {**own, **added}.items()}


def save_port(folder: Path, unet: Any, layers: InstanceLayers) -> Path:
    """A folder as the diffusers port saves it, its UNet alone."""
    file = folder / PORT_FILE
    file.parent.mkdir(parents=True)
    save_file(instance_state(unet, layers, original=False), file)
    return folder


def _rest() -> dict[str, Any]:
    tokenizer = word_tokenizer(length=LENGTH)
    return {
        "vae": tiny_vae(latent_channels=4),
        "text_encoder": CLIPTextModel(clip_text_config(tokenizer, width=32)).eval(),
        "tokenizer": tokenizer,
        "scheduler": DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
