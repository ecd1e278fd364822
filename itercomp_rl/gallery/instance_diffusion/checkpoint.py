"""InstanceDiffusion's layers from a file: the released checkpoint's names, or those of its diffusers port.

Both hold the whole UNet. Training left Stable Diffusion's own weights as they were, so only the added layers are read,
and any Stable Diffusion 1 checkpoint can carry them; the names and shapes of the rest are still checked.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode
from torch import Tensor
from transformers import ConvNextConfig

from itercomp_rl.errors import CheckpointError
from itercomp_rl.files.tensors import read_tensors
from itercomp_rl.gallery.instance_diffusion.layers import InstanceLayers
from itercomp_rl.gallery.instance_diffusion.unifusion import UniFusion
from itercomp_rl.network.hub import fetch_file

PORT_FILE = "unet/diffusion_pytorch_model.safetensors"
_HUB_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>.+)")
# The released file keeps its training configuration beside the weights; these hold data, not code.
_CONFIG_CLASSES = [DictConfig, ListConfig, ContainerMetadata, Metadata, AnyNode, defaultdict, dict, list, int, Any]
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
# transformers' names of ConvNeXt's parameters -> the original ones
_CONVNEXT = (
    (r"embeddings\.patch_embeddings\.(.+)", r"downsample_layers.0.0.\1"),
    (r"embeddings\.layernorm\.(.+)", r"downsample_layers.0.1.\1"),
    (r"encoder\.stages\.(\d+)\.downsampling_layer\.(.+)", r"downsample_layers.\1.\2"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layernorm\.(.+)", r"stages.\1.\2.norm.\3"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer_scale_parameter", r"stages.\1.\2.gamma"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(.+)", r"stages.\1.\2.\3"),
)
_SEGS = "position_net.convnext_tiny_backbone."


def load_layers(source: str | Path, unet: Any) -> InstanceLayers:
    """The layers in `source`, fitted to a diffusers UNet, in eval mode and float32.

    source: the released .pth or .safetensors file, a folder or file of the diffusers port, or "owner/name:file" on the
    Hugging Face hub. Sizes are read off the tensors.
    Raises: CheckpointError for a file that is missing, holds code, or has other keys or shapes, which are listed.
    """
    path = _local_file(source)
    # Of a released file, the averaged weights where it has both.
    given = read_tensors(path, entries=("ema", "model"), classes=_CONFIG_CLASSES)
    is_original = any(name.startswith("input_blocks.") for name in given)
    own = [name for name in unet.state_dict() if ".fuser." not in name and not name.startswith("position_net.")]
    their_own = {original_name(name, unet): name for name in own} if is_original else dict(zip(own, own, strict=True))
    layers = InstanceLayers(unet, _unifusion_of(given, path))
    their_layers = layer_names(layers, unet, original=is_original)
    _check_fit(given, {**unet.state_dict(), **layers.state_dict()}, their_own, their_layers, path)
    layers.load_state_dict({ours: given[theirs].float() for theirs, ours in their_layers.items()})
    return layers.requires_grad_(False).eval()


def layer_names(layers: InstanceLayers, unet: Any, *, original: bool) -> dict[str, str]:
    """The file's name -> name here of every parameter of the added layers, in the released form or the port's."""
    return {_their_name(name, layers, unet, original): name for name in layers.state_dict()}


def original_name(name: str, unet: Any) -> str:
    """What the released checkpoint calls a parameter of a diffusers UNet.

    Raises: CheckpointError for a parameter that Stable Diffusion 1 does not have.
    """
    per_block = unet.config.layers_per_block + 1
    for ours, theirs in (
        ("conv_in.", "input_blocks.0.0."),
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        kind, index, rest = found[1], int(found[2]), found[3]
        return f"middle_block.{1 if kind == 'attentions' else 2 * index}.{_inner(kind, rest)}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if not found:
        raise CheckpointError(f"the UNet has {name}, which no Stable Diffusion 1 has: its layers do not fit here")
    side, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    first = block * per_block + (1 if side == "down" else 0)
    blocks = "input_blocks" if side == "down" else "output_blocks"
    if kind == "downsamplers":
        return f"{blocks}.{first + per_block - 1}.0.{rest.replace('conv', 'op', 1)}"
    if kind == "upsamplers":
        has_attention = hasattr(unet.up_blocks[block], "attentions")
        return f"{blocks}.{first + per_block - 1}.{2 if has_attention else 1}.{rest}"
    return f"{blocks}.{first + layer}.{1 if kind == 'attentions' else 0}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    module, parameter = rest.rsplit(".", 1)
    return f"{_RESNET[module]}.{parameter}"


def _their_name(name: str, layers: InstanceLayers, unet: Any, is_original: bool) -> str:
    """What the file calls a parameter of the added layers."""
    kind, rest = name.split(".", 1)
    if kind == "scaleu":
        index, letter = rest.split(".")
        return f"scaleu_{letter}_{index}"
    if kind == "fusers":
        index, parameter = rest.split(".", 1)
        full = f"{layers.block_names[int(index)]}.fuser.{parameter}"
        return original_name(full, unet) if is_original else full
    if not name.startswith(_SEGS):
        return name
    rest = name.removeprefix(_SEGS)
    pattern, form = next((pattern, form) for pattern, form in _CONVNEXT if re.fullmatch(pattern, rest))
    return _SEGS + re.sub(pattern, form, rest)


def _unifusion_of(given: Mapping[str, Tensor], path: Path) -> UniFusion:
    """An empty UniFusion of the sizes that the tensors show."""
    joint = "position_net.linears.0.weight" in given
    mlp = "position_net.linears" if joint else "position_net.linears_list.0"
    with_masks = "position_net.null_polygon_feature" in given
    try:
        return UniFusion(
            in_dim=len(given["position_net.null_positive_feature"]),
            mid_dim=len(given[f"{mlp}.0.weight"]),
            out_dim=len(given[f"{mlp}.4.weight"]),
            with_masks=with_masks,
            joint=joint,
            convnext=_convnext_of(given) if with_masks and not joint else None,
            seg_side=64 * math.isqrt(given["position_net.pos_embedding"].shape[1]) if with_masks and not joint else 512,
        )
    except KeyError as error:
        raise CheckpointError(
            f"{path} has no {error}: it holds no layers of InstanceDiffusion; give instancediffusion_sd15.pth or the "
            "UNet of its diffusers port"
        ) from error


def _convnext_of(given: Mapping[str, Tensor]) -> ConvNextConfig:
    stages = range(4)
    blocks = [{name.split(".")[4] for name in given if name.startswith(f"{_SEGS}stages.{stage}.")} for stage in stages]
    return ConvNextConfig(
        depths=[len(names) for names in blocks],
        hidden_sizes=[len(given[f"{_SEGS}stages.{stage}.0.gamma"]) for stage in stages],
    )


def _check_fit(
    given: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    their_own: Mapping[str, str],
    their_layers: Mapping[str, str],
    path: Path,
) -> None:
    names = {**their_own, **their_layers}
    missing = [name for name in their_layers if name not in given]
    unknown = [name for name in given if name not in names]
    misfits = [
        f"{name} {list(given[name].shape)} for {list(ours[own].shape)}"
        for name, own in names.items()
        if name in given and given[name].shape != ours[own].shape
    ]
    if missing or unknown or misfits:
        raise CheckpointError(
            f"{path} does not fit this Stable Diffusion: {len(missing)} missing {missing}, {len(unknown)} unknown "
            f"{unknown}, {len(misfits)} of other shape {misfits}"
        )


def _local_file(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    for candidate in (path / PORT_FILE, path / Path(PORT_FILE).name):
        if candidate.is_file():
            return candidate
    if found := _HUB_FILE.fullmatch(str(source)):
        return fetch_file(found["repo"], found["file"])
    raise CheckpointError(
        f"{source} does not exist: give the released file, a folder with {PORT_FILE}, or owner/name:file on the "
        "Hugging Face hub"
    )
