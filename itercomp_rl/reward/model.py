"""Reward models of steps 4 and 6: how well an image keeps one aspect of its prompt, differentiable in the image.

BLIP's vision tower and its text encoder, which looks at the image in every layer, then a linear head on token 0.
The layers are transformers' own; the forward pass is written here so that attention is fused, the last text layer
computes only the one token the head reads, several captions share one image, and several aspects one vision prefix.
"""

# B images, C captions of each image, L text tokens, N image tokens, D image width, W text width, H W pixels in images
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.modeling_blip import BlipEncoderLayer
from transformers.models.blip.modeling_blip_text import BlipTextAttention, BlipTextLayer

from itercomp_rl.diffusion.attention_kernel import kernel
from itercomp_rl.errors import ConfigError
from itercomp_rl.reward.scorer import Scorer, check_tokenizer
from itercomp_rl.reward.scorer import TextTokens as TextTokens

Sizes = Mapping[str, Any]  # Any: handed on to transformers' config classes, which check each value

# An epsilon off by its library default moves the reward by .008 (vision) or .07 (text); the vision tower's default
# initializer_range, 1e-10, would start it all but dead.
_VISION_CONSTANTS: Sizes = {
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "initializer_range": 0.02,
    "attention_dropout": 0.0,
}
_TEXT_CONSTANTS: Sizes = {
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "initializer_range": 0.02,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": 0,
}
_TOWER_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")
_VISION_SIZES = (*_TOWER_SIZES, "patch_size")
_TEXT_SIZES = (*_TOWER_SIZES, "vocab_size", "max_position_embeddings")
_VIT_LARGE: Sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 16}
_MED_BERT: Sizes = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 30524,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Sizes of a reward model; the defaults are ImageReward's, which IterComp starts from.

    vision and text use transformers' names (BlipVisionConfig, BlipTextConfig) and must state every size;
    intermediate_size is 4 x hidden_size unless given, epsilons and dropouts are BLIP's unless given.
    mlp_widths are the hidden widths of the head, mlp_dropouts follow the first of them, drop_path is the last vision
    block's chance to be skipped in training (it grows linearly from 0). mlp_init: imagereward draws N(0, 1/(width+1)),
    nearly silent, for a head about to be loaded; unit_gain keeps the scale, for a head that starts from nothing.

    Example: RewardConfig(image_size=32, vision={"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "patch_size": 4}, text={"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 60,
        "max_position_embeddings": 16}, max_text_tokens=16, mlp_init="unit_gain")
    Raises: ConfigError for an unknown or missing size, or sizes that do not fit each other.
    """

    vision: Sizes = field(default_factory=lambda: dict(_VIT_LARGE))
    text: Sizes = field(default_factory=lambda: dict(_MED_BERT))
    image_size: int = 224  # pixels
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    max_text_tokens: int = 35
    mlp_widths: tuple[int, ...] = (1024, 128, 64, 16)
    mlp_dropouts: tuple[float, ...] = (0.2, 0.2, 0.1)
    mlp_init: str = "imagereward"
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "vision", _complete("vision", self.vision, _VISION_SIZES, _VISION_CONSTANTS))
        object.__setattr__(self, "text", _complete("text", self.text, _TEXT_SIZES, _TEXT_CONSTANTS))
        patch = self.vision["patch_size"]
        if self.image_size % patch:
            raise ConfigError(f"reward image_size is {self.image_size}: must be a multiple of patch_size {patch}")
        if not 0 < self.max_text_tokens <= self.text["max_position_embeddings"]:
            raise ConfigError(
                f"reward max_text_tokens is {self.max_text_tokens}: must be 1 to text max_position_embeddings "
                f"({self.text['max_position_embeddings']})"
            )
        if len(self.mlp_dropouts) > len(self.mlp_widths):
            raise ConfigError(
                f"reward mlp_dropouts are {self.mlp_dropouts}: at most one for each of mlp_widths {self.mlp_widths}"
            )
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"reward drop_path is {self.drop_path}: must be 0 (keep all) or more, and below 1")
        if self.mlp_init not in _HEAD_STD:
            raise ConfigError(f"reward mlp_init is {self.mlp_init!r}: must be one of {sorted(_HEAD_STD)}")


def _complete(tower: str, given: Sizes, sizes: Sequence[str], constants: Sizes) -> dict[str, Any]:
    known = [*sizes, *constants, "intermediate_size"]
    for key in given:
        if key not in known:
            near = " or ".join(difflib.get_close_matches(key, known, n=1) or known)
            raise ConfigError(f"reward {tower} has {key!r}, which is no setting of it: did you mean {near}?")
    if missing := [key for key in sizes if key not in given]:
        raise ConfigError(f"reward {tower} lacks {missing}: state every size of the tower")
    width, heads = given["hidden_size"], given["num_attention_heads"]
    if width % heads:
        raise ConfigError(f"reward {tower} hidden_size is {width}: must be a multiple of num_attention_heads {heads}")
    return {"intermediate_size": 4 * width, **constants, **given}


class LinearHead(nn.Module):
    """The stack of linear layers that turns token 0 [*,W] into a raw reward [*]; dropout between, no activation.

    A product of matrices: ImageReward's head as trained, not an oversight here.
    """

    def __init__(self, config: RewardConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = config.text["hidden_size"]
        std = _HEAD_STD[config.mlp_init]
        for i, next_width in enumerate((*config.mlp_widths, 1)):
            linear = nn.Linear(width, next_width)
            nn.init.normal_(linear.weight, std=std(config.text["hidden_size"], width))
            nn.init.zeros_(linear.bias)
            layers.append(linear)
            if i < len(config.mlp_dropouts):
                layers.append(nn.Dropout(config.mlp_dropouts[i]))
            width = next_width
        self.layers = nn.Sequential(*layers)

    def forward(self, feature: Tensor) -> Tensor:
        return self.layers(feature).squeeze(-1)


_HEAD_STD = {
    "imagereward": lambda text_width, fan_in: 1 / (text_width + 1),
    "unit_gain": lambda text_width, fan_in: fan_in**-0.5,
}


class RewardModel(Scorer):
    """BLIP's scorer. Initial weights follow from `seed` alone and leave the global generator as it was.

    `attention` is the vision tower's; captions are masked, which FlashAttention cannot do.
    Raises: ConfigError for a tokenizer without padding token or with more tokens than the text encoder.
    """

    def __init__(
        self, config: RewardConfig, tokenizer: PreTrainedTokenizerFast | None = None, *, seed: int = 0
    ) -> None:
        super().__init__(tokenizer)
        check_tokenizer(tokenizer, config.text["vocab_size"])
        self.config = config
        self.image_size, self.image_mean, self.image_std = config.image_size, config.image_mean, config.image_std
        self.max_text_tokens = config.max_text_tokens
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.vision = BlipVisionModel(BlipVisionConfig(image_size=config.image_size, **config.vision))
            # is_decoder builds the cross-attention; the mask below is not causal all the same
            self.text = BlipTextModel(
                BlipTextConfig(
                    is_decoder=True,
                    encoder_hidden_size=config.vision["hidden_size"],
                    bos_token_id=None,
                    eos_token_id=None,
                    sep_token_id=None,
                    **config.text,
                ),
                add_pooling_layer=False,
            )
            self.mlp = LinearHead(config)

    @property
    def stem(self) -> nn.Module:
        return self.vision.embeddings

    @property
    def blocks(self) -> nn.ModuleList:
        return self.vision.encoder.layers

    @property
    def vision_recipe(self) -> tuple[object, ...]:
        """The number of heads cannot be read off the weights."""
        depthless = {key: value for key, value in self.config.vision.items() if key != "num_hidden_layers"}
        return depthless, self.image_size, self.image_mean, self.image_std

    @property
    def pretrained_parts(self) -> dict[str, PreTrainedModel]:
        return {"vision": self.vision, "text": self.text}

    def vision_prefix(self, image_preprocessed: Tensor, num_blocks: int) -> Tensor:
        """Hidden tokens [B,N,D] after the first `num_blocks` vision blocks."""
        return self._run_blocks(self.vision.embeddings(image_preprocessed), 0, num_blocks)

    def vision_suffix(self, hidden: Tensor, num_blocks: int) -> Tensor:
        """Image tokens [B,N,D] from what `vision_prefix` gave for the same `num_blocks`."""
        depth = len(self.vision.encoder.layers)
        return self.vision.post_layernorm(self._run_blocks(hidden, num_blocks, depth))

    def score_tokens(self, image_features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Raw rewards [B] of encoded images under captions [B,L]; [B,C] under [B,C,L]."""
        feature = self.text_features(image_features, input_ids, attention_mask)
        return self.mlp(feature)

    def text_features(self, image_tokens_BND: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the head reads: the last hidden state at token 0, [B,W] or [B,C,W]; padding is masked, nothing else.

        Raises: ValueError for captions longer than the position embeddings.
        """
        embeddings = self.text.embeddings
        length, positions = input_ids.shape[-1], embeddings.position_embeddings.weight
        if length > len(positions):
            raise ValueError(f"captions have {length} tokens: the text encoder has {len(positions)} positions")
        ids_TL, mask_T11L = input_ids.reshape(-1, length), attention_mask.reshape(-1, 1, 1, length).bool()
        hidden = embeddings.word_embeddings(ids_TL) + positions[:length]
        hidden = embeddings.dropout(embeddings.LayerNorm(hidden))
        layers = self.text.encoder.layer
        for i, layer in enumerate(layers):
            query = hidden if i < len(layers) - 1 else hidden[:, :1]
            hidden = _text_layer(cast(BlipTextLayer, layer), query, hidden, mask_T11L, image_tokens_BND)
        return hidden[:, 0].view(*input_ids.shape[:-1], -1)

    def _run_blocks(self, hidden_BND: Tensor, first: int, end: int) -> Tensor:
        layers = self.vision.encoder.layers
        for i in range(first, end):
            drop_path = self.config.drop_path * i / max(len(layers) - 1, 1) if self.training else 0.0
            with kernel(self.attention):
                hidden_BND = _vision_block(cast(BlipEncoderLayer, layers[i]), hidden_BND, drop_path)
        return hidden_BND


def _vision_block(layer: BlipEncoderLayer, hidden_BND: Tensor, drop_path: float) -> Tensor:
    attention = layer.self_attn
    query, key, value = attention.qkv(layer.layer_norm1(hidden_BND)).chunk(3, dim=-1)
    dropout = attention.dropout.p if layer.training else 0.0
    mixed = attention.projection(_attend(query, key, value, attention.num_heads, dropout=dropout))
    hidden_BND = hidden_BND + _drop_path(mixed, drop_path)
    return hidden_BND + _drop_path(layer.mlp(layer.layer_norm2(hidden_BND)), drop_path)


def _text_layer(
    layer: BlipTextLayer, query_TQW: Tensor, hidden_TLW: Tensor, mask_T11L: Tensor, image_BND: Tensor
) -> Tensor:
    """One text layer for the tokens in `query` (all, or only token 0); T = B x C captions, Q queried tokens."""
    own = _text_attention(layer.attention, query_TQW, hidden_TLW, mask_T11L)
    # an image's captions queue up as one long query, so that keys and values of the image are computed once
    seen = _text_attention(layer.crossattention, own.reshape(len(image_BND), -1, own.shape[-1]), image_BND, None)
    return layer.feed_forward_chunk(seen.view_as(own))


def _text_attention(attention: BlipTextAttention, query: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
    inner = attention.self
    dropout = inner.dropout.p if attention.training else 0.0
    mixed = _attend(
        inner.query(query), inner.key(source), inner.value(source), inner.num_attention_heads, mask, dropout
    )
    return attention.output(mixed, query)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)


def _drop_path(branch_BND: Tensor, rate: float) -> Tensor:
    if rate == 0:
        return branch_BND
    keep = branch_BND.new_empty(len(branch_BND), 1, 1).bernoulli_(1 - rate)
    return branch_BND * keep / (1 - rate)
