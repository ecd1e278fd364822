"""Published reward models on CLIP: PickScore, HPSv2.1, CLIPScore and LAION's aesthetic head, from files or the hub."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.image_processing_base import ImageProcessingMixin

from itercomp_rl.config.scorer_names import ScorerName
from itercomp_rl.diffusion.checkpoint import loading
from itercomp_rl.errors import CheckpointError
from itercomp_rl.files.tensors import read_tensors
from itercomp_rl.network.hub import HUB_FILE, check_reach, fetch_file
from itercomp_rl.reward.aesthetic_head import load_aesthetic_head
from itercomp_rl.reward.checkpoint import model_of
from itercomp_rl.reward.clip import AestheticConfig, AestheticReward, ClipConfig, ClipReward

CLIP_KINDS = ("pickscore", "hpsv2", "clipscore", "aesthetic")
LAION_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
OPENAI_L = "openai/clip-vit-large-patch14"

# What a unit of cosine counts in the published scores; PickScore is the cosine times its own temperature.
# HPSv2: hpsv2/img_score.py gives the cosine, and its tables a hundred times that. CLIPScore: Hessel et al.
# (arXiv 2104.08718), 2.5 max(cosine, 0); the maximum is left out, as nothing could be learned where it holds.
COSINE_FACTORS = {"hpsv2": 100.0, "clipscore": 2.5}

_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OPEN_CLIP_NAMES = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_LAYER = re.compile(r"(?P<visual>visual\.)?transformer\.resblocks\.(?P<index>\d+)\.(?P<part>.+)")
_PARAMETER = re.compile(r"(?P<module>.+?)[._](?P<kind>weight|bias)")


def companion(name: ScorerName) -> str:
    """The folder or hub id that gives a scorer's tokenizer and normalisation, and what else its own file lacks.

    These lie beside a local checkpoint, or come from the CLIP that the published one was trained from.
    """
    path = Path(name.checkpoint)
    if name.kind == "clipscore":
        return name.checkpoint
    if name.kind == "pickscore":
        has_own = any((path / file).is_file() for file in ("tokenizer.json", "vocab.json"))
        return name.checkpoint if has_own else LAION_H
    is_beside = path.is_file() and (path.parent / "config.json").is_file()
    return str(path.parent) if is_beside else {"hpsv2": LAION_H, "aesthetic": OPENAI_L}[name.kind]


def load_clip_config(name: ScorerName) -> ClipConfig | AestheticConfig:
    """The sizes and the normalisation of a CLIP scorer, without its weights.

    Raises: CheckpointError if a configuration cannot be had, or is none of CLIP.
    """
    beside = companion(name)
    tower = name.checkpoint if name.kind in ("pickscore", "clipscore") else beside
    check_reach(tower)
    with loading(tower):
        # A folder without config.json gives an empty one, of which CLIPConfig would make its defaults.
        stored, _ = CLIPConfig.get_config_dict(tower)
        if stored.get("model_type") != "clip":
            found = repr(stored.get("model_type")) if stored else "no config.json"
            raise CheckpointError(f"{tower} has {found}: {name.kind} needs a checkpoint of CLIPModel")
        config = CLIPConfig.from_dict(stored)
        assert isinstance(config, CLIPConfig)
    check_reach(beside)
    with loading(beside):
        settings, _ = ImageProcessingMixin.get_image_processor_dict(beside)
    normalisation = {key: _three(settings[key]) for key in ("image_mean", "image_std") if key in settings}
    sizes = ClipConfig.of(config, **normalisation)
    if name.kind != "aesthetic":
        return sizes
    return AestheticConfig(
        vision=sizes.vision,
        embedding_width=sizes.embedding_width,
        image_mean=sizes.image_mean,
        image_std=sizes.image_std,
    )


def load_clip_tokenizer(name: ScorerName) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a CLIP scorer; None for one that reads no text. Raises: CheckpointError if it cannot be had."""
    if name.kind == "aesthetic":
        return None
    source = companion(name)
    check_reach(source)
    with loading(source):
        tokenizer = AutoTokenizer.from_pretrained(source)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointError(f"{source} has a {type(tokenizer).__name__}: must be a fast tokenizer (tokenizer.json)")
    return tokenizer


def load_clip_reward(name: ScorerName) -> ClipReward | AestheticReward:
    """A published scorer on the CPU in fp32, in eval mode, whose `score` is in the published units.

    Raises: CheckpointError for files that cannot be had or do not fit each other.
    """
    config = load_clip_config(name)
    if isinstance(config, AestheticConfig):
        return _load_aesthetic(name, config)
    if name.kind == "hpsv2":
        state = from_open_clip(read_tensors(_local(name), f"HPSv2 {name.checkpoint!r}", entries=("state_dict",)))
        state = {key: tensor.float() for key, tensor in state.items()}
    else:
        state = _weights(name.checkpoint)
    scale = float(state["logit_scale"].exp()) if "logit_scale" in state else 1.0
    factor = COSINE_FACTORS.get(name.kind, scale)
    held = {f"clip.{key}": tensor for key, tensor in state.items()}
    held |= {"reward_mean": torch.tensor(0.0), "reward_std": torch.tensor(scale / factor)}
    model = model_of(config, load_clip_tokenizer(name), held, name.checkpoint)
    assert isinstance(model, ClipReward)
    return model


def from_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in open_clip's layout by the names of transformers' CLIPModel; names that it does not know stay.

    Queries, keys and values lie in one tensor there, and projections are stored transposed.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        key = key.removeprefix("module.")
        if key == "attn_mask":  # causal, which transformers makes by itself
            continue
        if key in _TRANSPOSED:
            found[_TRANSPOSED[key]] = tensor.t().contiguous()
        elif matched := _LAYER.fullmatch(key):
            found |= _layer(matched, tensor)
        else:
            found[_OPEN_CLIP_NAMES.get(key, key)] = tensor
    return found


def _layer(matched: re.Match[str], tensor: Tensor) -> dict[str, Tensor]:
    tower = "vision_model" if matched["visual"] else "text_model"
    layer = f"{tower}.encoder.layers.{matched['index']}"
    parameter = _PARAMETER.fullmatch(matched["part"])
    if parameter is None:
        return {matched[0]: tensor}
    module, kind = parameter["module"], parameter["kind"]
    if module == "attn.in_proj":
        parts = tensor.chunk(3)
        return {f"{layer}.self_attn.{n}_proj.{kind}": p.contiguous() for n, p in zip("qkv", parts, strict=True)}
    return {f"{layer}.{_OPEN_CLIP_LAYER[module]}.{kind}" if module in _OPEN_CLIP_LAYER else matched[0]: tensor}


def _load_aesthetic(name: ScorerName, config: AestheticConfig) -> AestheticReward:
    head = load_aesthetic_head(name.checkpoint, config.embedding_width)
    widths = [layer.out_features for layer in head if isinstance(layer, torch.nn.Linear)]
    clip = _weights(companion(name)).items()
    state = {f"clip.{key}": tensor for key, tensor in clip if key.startswith(("vision_model.", "visual_projection."))}
    state |= {f"head.{key}": tensor for key, tensor in head.state_dict().items()}
    state |= {"reward_mean": torch.tensor(0.0), "reward_std": torch.tensor(1.0)}
    model = model_of(replace(config, head_widths=tuple(widths[:-1])), None, state, name.checkpoint)
    assert isinstance(model, AestheticReward)
    return model


def _weights(source: str) -> dict[str, Tensor]:
    """The fp32 weights of a CLIPModel checkpoint.

    Raises: CheckpointError if it lacks any, which transformers would draw at random.
    """
    check_reach(source)
    with loading(source):
        # Any: transformers does not type what it returns with loading information.
        loaded: Any = CLIPModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
        model, found = loaded
    lacking: list[Any] = [*found["missing_keys"], *found["mismatched_keys"]]
    if lacking:
        raise CheckpointError(f"{source} lacks weights of CLIPModel, or has them in other shapes: {lacking}")
    return dict(model.state_dict())


def _local(name: ScorerName) -> Path:
    if (path := Path(name.checkpoint)).is_file():
        return path
    if found := HUB_FILE.fullmatch(name.checkpoint):
        return fetch_file(found["repo"], found["file"])
    raise CheckpointError(
        f"{name.kind}:{name.checkpoint} does not exist: give a local file, or owner/name:file on the Hugging Face hub"
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    if not all(map(math.isfinite, (red, green, blue))):
        raise CheckpointError(f"the normalisation of images is {values}: must be three finite numbers")
    return red, green, blue
