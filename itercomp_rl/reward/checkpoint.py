"""Files of a reward model: this project's folders, and the official IterComp and ImageReward checkpoints."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from itercomp_rl.errors import CheckpointError, ConfigError
from itercomp_rl.files.tensors import read_tensors
from itercomp_rl.files.whole import appearing
from itercomp_rl.network.hub import HUB_FILE, check_reach, fetch_file
from itercomp_rl.reward.clip import AestheticConfig, AestheticReward, ClipConfig, ClipReward
from itercomp_rl.reward.conv import ConvConfig, ConvReward
from itercomp_rl.reward.model import RewardConfig, RewardModel

AnyReward = RewardModel | ConvReward | ClipReward | AestheticReward
AnyConfig = RewardConfig | ConvConfig | ClipConfig | AestheticConfig

# What config.json says under "format", and what it means.
# Any: each class checks what it is given.
FORMATS: dict[str, Any] = {
    "itercomp-reward-1": RewardConfig,
    "itercomp-reward-conv-1": ConvConfig,
    "itercomp-reward-clip-1": ClipConfig,
    "itercomp-reward-aesthetic-1": AestheticConfig,
}
_CLASSES: dict[Any, Any] = {
    RewardConfig: RewardModel,
    ConvConfig: ConvReward,
    ClipConfig: ClipReward,
    AestheticConfig: AestheticReward,
}
HEAD = "head.safetensors"
IMAGEREWARD_MEAN, IMAGEREWARD_STD = 0.16717362830052426, 1.0333394966054072
BERT = "google-bert/bert-base-uncased"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")  # either holds the whole vocabulary

_VISION_BLOCK = {
    "norm1": "layer_norm1",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_TEXT_ATTENTION = ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
_TEXT_LAYER = (
    *(f"attention.{part}" for part in _TEXT_ATTENTION),
    *(f"crossattention.{part}" for part in _TEXT_ATTENTION),
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_UNUSED = re.compile(r"(.*\.)?position_ids|blip\.(vision|text)_proj\.(weight|bias)")


def official_names(config: RewardConfig) -> dict[str, str]:
    """Official name -> name here of every weight, in the order in which the official model lists (and freezes) them."""
    v, t = "blip.visual_encoder", "blip.text_encoder"
    names = {
        f"{v}.cls_token": "vision.embeddings.class_embedding",
        f"{v}.pos_embed": "vision.embeddings.position_embedding",
        **_affine(f"{v}.patch_embed.proj", "vision.embeddings.patch_embedding"),
    }
    for i in range(config.vision["num_hidden_layers"]):
        for theirs, ours in _VISION_BLOCK.items():
            names |= _affine(f"{v}.blocks.{i}.{theirs}", f"vision.encoder.layers.{i}.{ours}")
    names |= _affine(f"{v}.norm", "vision.post_layernorm")
    for table in ("word_embeddings", "position_embeddings"):
        names[f"{t}.embeddings.{table}.weight"] = f"text.embeddings.{table}.weight"
    names |= _affine(f"{t}.embeddings.LayerNorm", "text.embeddings.LayerNorm")
    for i in range(config.text["num_hidden_layers"]):
        for part in _TEXT_LAYER:
            names |= _affine(f"{t}.encoder.layer.{i}.{part}", f"text.encoder.layer.{i}.{part}")
    for i in _head_indices(config):
        names |= _affine(f"mlp.layers.{i}", f"mlp.layers.{i}")
    return names


def save_reward(model: AnyReward, folder: Path) -> None:
    """Write weights, calibration, config and tokenizer to a new folder, which appears complete or not at all.

    Raises: CheckpointError if the folder exists: checkpoints are written once.
    """
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(f"{folder} exists: reward models are written once, choose another folder")
    with appearing(folder) as partial:
        partial.mkdir()
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, partial / "model.safetensors", metadata={"format": "pt"})
        _save_rest(model, partial)


def export_reward(model: AnyReward, folder: Path) -> None:
    """Write the model to a new folder in parts that plain transformers loads; `load_reward` reads it too.

    Each of the model's `pretrained_parts` is a folder for its class's from_pretrained (BlipVisionModel's `vision` and
    BlipTextModel's `text`), the folder itself for a tokenizer's; head.safetensors holds all other weights, the mean and
    the standard deviation.
    Raises: CheckpointError if the folder exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(f"{folder} exists: an export is written once, choose another folder")
    with appearing(folder) as partial:
        partial.mkdir()
        for name, part in model.pretrained_parts.items():
            part.save_pretrained(partial / name)
        apart = tuple(f"{name}." for name in model.pretrained_parts)
        head = {name: t for name, t in model.state_dict().items() if not name.startswith(apart)}
        save_file({name: t.detach().cpu().contiguous() for name, t in head.items()}, partial / HEAD)
        _save_rest(model, partial)


def load_reward(folder: Path) -> AnyReward:
    """A saved or exported reward model on the CPU, in eval mode, in the dtype it was saved in.

    Raises: CheckpointError for a missing or foreign folder, or weights that do not fit the config.
    """
    folder = Path(folder)
    config, has_tokenizer = _read_config(folder / "config.json")
    tokenizer = None
    if has_tokenizer:
        if not (folder / "tokenizer.json").is_file():
            raise CheckpointError(f"{folder} lacks tokenizer.json: copy the whole folder")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return model_of(config, tokenizer, _read_parts(folder), str(folder))


def load_reward_config(source: str | Path) -> AnyConfig:
    """The sizes of a saved folder, without its weights; ImageReward's for anything else. Raises: CheckpointError."""
    return _read_config(Path(source) / "config.json")[0] if Path(source).is_dir() else RewardConfig()


def make_reward(config: AnyConfig, tokenizer: PreTrainedTokenizerFast | None = None, *, seed: int = 0) -> AnyReward:
    """A reward model of these sizes with new weights."""
    return _CLASSES[type(config)](config, tokenizer, seed=seed)


def load_official(
    source: str | Path,
    config: RewardConfig | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    mean: float = IMAGEREWARD_MEAN,
    std: float = IMAGEREWARD_STD,
) -> RewardModel:
    """An official state dict as a float32 reward model in eval mode; keys with or without a leading `module.`.

    Args: source is a local .pt, .pth, .bin or .safetensors file, or "owner/name:file" on the Hugging Face hub, such as
    "zai-org/ImageReward:ImageReward.pt". config defaults to ImageReward's sizes. mean and std are ImageReward-v1's; a
    head trained anew needs `calibrate`.
    Raises: CheckpointError for a file that is missing, holds code, is no flat dict of tensors, or has other keys or
    shapes than `config`, which are listed.
    """
    path = _local_file(source)
    config = config or RewardConfig()
    state = read_tensors(path)
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    ours_of = official_names(config)
    renamed = {ours_of.get(key, key): tensor.float() for key, tensor in state.items() if not _UNUSED.fullmatch(key)}
    renamed |= {"reward_mean": torch.tensor(mean), "reward_std": torch.tensor(std)}
    told_as = {ours: theirs for theirs, ours in ours_of.items()}
    model = model_of(config, tokenizer, renamed, str(source), told_as)
    assert isinstance(model, RewardModel)
    return model


def load_official_tokenizer(source: str | Path = BERT) -> PreTrainedTokenizerFast:
    """BERT's tokenizer with [DEC] and [ENC] appended, as BLIP's text encoder was trained: ids 30522 and 30523.

    Args: source is a local folder, of which vocab.txt or tokenizer.json is enough, or a name on the Hugging Face hub.
    Raises: CheckpointError if it cannot be had, with the way out.
    """
    # Without its settings a vocabulary says nothing of its class, which is BERT's here.
    check_reach(source)
    is_bare = Path(source).is_dir() and not (Path(source) / "tokenizer_config.json").is_file()
    try:
        tokenizer = (BertTokenizer if is_bare else AutoTokenizer).from_pretrained(source)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the tokenizer of official reward models, {source}, cannot be had: run `hf download {BERT} config.json "
            "tokenizer.json tokenizer_config.json vocab.txt` where the hub is in reach, "
            f"or put these files ({' or '.join(TOKENIZER_FILES)} is enough) beside the reward model's own ({error})"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointError(f"{source} is a {type(tokenizer).__name__}: must be a fast tokenizer (tokenizer.json)")
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return tokenizer


def official_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of an official file of ImageReward's sizes: of tokenizer files beside it, else BERT's of the hub.

    Args: source as of `load_official`.
    Raises: CheckpointError if it cannot be had, or has not as many tokens as the text encoder.
    """
    folder, num_tokens = Path(source).parent, RewardConfig().text["vocab_size"]
    is_beside = Path(source).is_file() and any((folder / name).is_file() for name in TOKENIZER_FILES)
    tokenizer = load_official_tokenizer(folder if is_beside else BERT)
    if len(tokenizer) != num_tokens:  # other ids would score without an error, and score nonsense
        raise CheckpointError(
            f"the tokenizer beside {source} has {len(tokenizer)} tokens with [DEC] and [ENC], official reward models "
            f"have {num_tokens}: put that of {BERT} there, or none to have it from the hub"
        )
    return tokenizer


def _save_rest(model: AnyReward, folder: Path) -> None:
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)
    form = next(form for form, kind in FORMATS.items() if isinstance(model.config, kind))
    config = {"format": form, "has_tokenizer": model.tokenizer is not None, **asdict(model.config)}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _read_parts(folder: Path) -> dict[str, Tensor]:
    """All weights of a saved folder, or of an exported one."""
    if not (folder / HEAD).is_file():
        return read_tensors(folder / "model.safetensors")
    state = read_tensors(folder / HEAD)
    for part in sorted(file.parent for file in folder.glob("*/config.json")):
        state |= {f"{part.name}.{name}": t for name, t in read_tensors(part / "model.safetensors").items()}
    return state


def _affine(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")}


def _head_indices(config: RewardConfig) -> list[int]:
    """Places of the linear layers among the dropouts: 0, 2, 4, 6, 7 for three dropouts and five layers."""
    dropouts = len(config.mlp_dropouts)
    return [i + min(i, dropouts) for i in range(len(config.mlp_widths) + 1)]


def model_of(
    config: AnyConfig,
    tokenizer: PreTrainedTokenizerFast | None,
    state: Mapping[str, Tensor],
    source: str,
    told_as: Mapping[str, str] | None = None,
) -> AnyReward:
    """A reward model in eval mode that holds these very tensors. told_as: other names of weights, for messages.

    Raises: CheckpointError that lists the weights which are missing, unknown or of another shape.
    """
    with torch.device("meta"):  # no time or memory for weights that are about to be replaced
        model = make_reward(config, tokenizer)
    _check_fit(model.state_dict(), state, source, told_as or {})
    model.load_state_dict(dict(state), assign=True)
    for module in model.modules():  # the one buffer that no checkpoint holds
        if (positions := module._buffers.get("position_ids")) is not None and positions.is_meta:
            counted = torch.arange(positions.shape[-1]).expand(positions.shape)
            module.register_buffer("position_ids", counted, persistent=False)
    if stranded := [name for name, tensor in model.named_buffers() if tensor.is_meta]:
        raise CheckpointError(f"{source} leaves {stranded} without values: this transformers version is not supported")
    return model.eval()


def _check_fit(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str, told_as: Mapping[str, str]
) -> None:
    missing = [told_as.get(name, name) for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    misfits = [
        f"{told_as.get(name, name)} {list(given[name].shape)} for {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if missing or unknown or misfits:
        raise CheckpointError(
            f"{source} does not fit the reward config: {len(missing)} missing {missing}, {len(unknown)} unknown "
            f"{unknown}, {len(misfits)} of other shape {misfits}; give the config the weights were trained with"
        )


def _read_config(path: Path) -> tuple[AnyConfig, bool]:
    """The sizes that a config.json holds, and whether a tokenizer lies beside it."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: give the folder that save_reward wrote")
    try:
        stored = json.loads(path.read_text(encoding="utf-8-sig"))  # Notepad puts a mark before what it saves
    except ValueError as error:  # bytes that are not UTF-8, or no JSON
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    form = stored.pop("format", None) if isinstance(stored, dict) else None
    if form not in FORMATS:
        raise CheckpointError(
            f"{path} is not of format {' or '.join(FORMATS)} but {form!r}: give the folder that save_reward wrote"
        )
    expected = {"has_tokenizer", *(f.name for f in fields(FORMATS[form]))}
    if expected != stored.keys():
        raise CheckpointError(f"{path} differs from this version's settings in {sorted(expected ^ stored.keys())}")
    has_tokenizer = stored.pop("has_tokenizer")
    sizes = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    try:
        return FORMATS[form](**sizes), has_tokenizer
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _local_file(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    if found := HUB_FILE.fullmatch(str(source)):
        return fetch_file(found["repo"], found["file"])
    raise CheckpointError(f"{source} does not exist: give a local file, or owner/name:file on the Hugging Face hub")
