"""Reward models on CLIP: the cosine of image and prompt (PickScore, HPSv2.1, CLIPScore), or a head on the image.

The towers are transformers' own. A raw reward is the number that the published model is trained with, so that each can
learn on as a trunk; reward_mean and reward_std bring it to the units in which its scores are published.
"""

# B images, C captions of each image, L text tokens, N image tokens, D width of embeddings, S side of an image
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from itercomp_rl.diffusion.attention_kernel import kernel
from itercomp_rl.errors import ConfigError
from itercomp_rl.reward.scorer import Scorer, TextTokens, check_tokenizer

Sizes = Mapping[str, Any]  # Any: handed on to transformers' config classes, which check each value

_TOWER = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
)
_VISION = (*_TOWER, "image_size", "patch_size")
_TEXT = (*_TOWER, "vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Sizes of a CLIP that scores; vision and text use transformers' names (CLIPVisionConfig, CLIPTextConfig).

    Example: ClipConfig.of(CLIPConfig.from_pretrained("laion/CLIP-ViT-H-14-laion2B-s32B-b79K"))
    Raises: ConfigError for sizes that are missing or unknown.
    """

    vision: Sizes
    text: Sizes
    embedding_width: int
    image_mean: tuple[float, float, float] = OPENAI_MEAN
    image_std: tuple[float, float, float] = OPENAI_STD

    def __post_init__(self) -> None:
        _check_sizes("vision", self.vision, _VISION)
        _check_sizes("text", self.text, _TEXT)

    @property
    def image_size(self) -> int:
        """The side of an image, in pixels."""
        return self.vision["image_size"]

    @property
    def max_text_tokens(self) -> int:
        """The longest text that the text encoder reads, its begin and end marks included."""
        return self.text["max_position_embeddings"]

    @classmethod
    def of(cls, config: CLIPConfig, **normalisation: tuple[float, float, float]) -> "ClipConfig":
        """The sizes of a transformers checkpoint. normalisation: image_mean and image_std."""
        vision, text = config.vision_config, config.text_config
        return cls(
            vision={name: getattr(vision, name) for name in _VISION},
            text={name: getattr(text, name) for name in _TEXT},
            embedding_width=cast(int, config.projection_dim),
            **normalisation,
        )


@dataclass(frozen=True, kw_only=True)
class AestheticConfig:
    """Sizes of a linear head on CLIP's image embedding; head_widths are the widths between its linear layers.

    Raises: ConfigError for sizes that are missing or unknown.
    """

    vision: Sizes
    embedding_width: int
    head_widths: tuple[int, ...] = (1024, 128, 64, 16)
    image_mean: tuple[float, float, float] = OPENAI_MEAN
    image_std: tuple[float, float, float] = OPENAI_STD

    def __post_init__(self) -> None:
        _check_sizes("vision", self.vision, _VISION)

    @property
    def image_size(self) -> int:
        """The side of an image, in pixels."""
        return self.vision["image_size"]

    @property
    def max_text_tokens(self) -> int:
        """One, for the token that `tokenize` gives and nothing reads: the score depends on the image alone."""
        return 1


class ClipScorer(Scorer):
    """This base class holds the CLIP vision tower that all CLIP reward models share.

    The features of an image are its unit-length embedding.
    """

    clip: CLIPModel | CLIPVisionModelWithProjection
    config: ClipConfig | AestheticConfig

    def __init__(self, config: ClipConfig | AestheticConfig, tokenizer: PreTrainedTokenizerFast | None) -> None:
        super().__init__(tokenizer)
        self.config = config
        self.image_size, self.image_mean, self.image_std = config.image_size, config.image_mean, config.image_std
        self.max_text_tokens = config.max_text_tokens

    @property
    def stem(self) -> nn.Module:
        tower = self.clip.vision_model
        return nn.ModuleList([tower.embeddings, tower.pre_layrnorm])

    @property
    def blocks(self) -> nn.ModuleList:
        return self.clip.vision_model.encoder.layers

    @property
    def vision_recipe(self) -> tuple[object, ...]:
        config = self.config
        depthless = {key: value for key, value in config.vision.items() if key != "num_hidden_layers"}
        return "clip", depthless, config.image_mean, config.image_std

    @property
    def pretrained_parts(self) -> dict[str, PreTrainedModel]:
        return {"clip": self.clip}

    def vision_prefix(self, image_preprocessed: Tensor, num_blocks: int) -> Tensor:
        """Hidden tokens [B,N,width] after the first `num_blocks` vision blocks."""
        tower = self.clip.vision_model
        return self._run_blocks(tower.pre_layrnorm(tower.embeddings(image_preprocessed)), 0, num_blocks)

    def vision_suffix(self, hidden: Tensor, num_blocks: int) -> Tensor:
        """The image's unit embedding [B,D]."""
        hidden_BND = self._run_blocks(hidden, num_blocks, len(self.blocks))
        pooled = self.clip.vision_model.post_layernorm(hidden_BND[:, 0])
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    def _run_blocks(self, hidden_BND: Tensor, first: int, end: int) -> Tensor:
        with kernel(self.attention):
            for layer in self.blocks[first:end]:
                hidden_BND = layer(hidden_BND, attention_mask=None)
        return hidden_BND

    def freeze_lower(self, fix_rate: float) -> list[str]:
        """Freeze the lower `fix_rate` of every tower; returns the names of the frozen."""
        self.requires_grad_(True)
        _freeze_tower(self.stem, self.blocks, fix_rate)
        return self._frozen()

    def _frozen(self) -> list[str]:
        return [name for name, p in self.named_parameters() if not p.requires_grad]


class ClipReward(ClipScorer):
    """The cosine of an image's and a prompt's embedding, times CLIP's temperature.

    Initial weights follow from `seed` alone and leave the global generator as it was. The temperature does not learn.
    Raises: ConfigError for a tokenizer without padding token or with more tokens than the text encoder.
    """

    def __init__(self, config: ClipConfig, tokenizer: PreTrainedTokenizerFast | None = None, *, seed: int = 0) -> None:
        super().__init__(config, tokenizer)
        check_tokenizer(tokenizer, config.text["vocab_size"])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.clip = CLIPModel(
                CLIPConfig(
                    text_config=dict(config.text),
                    vision_config=dict(config.vision),
                    projection_dim=config.embedding_width,
                )
            )

    def score_tokens(self, image_features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # No mask: attention is causal, and the state that CLIP pools, at the first end mark, sees no padding after it.
        clip = self._both_towers
        text = clip.text_model(input_ids=input_ids.reshape(-1, input_ids.shape[-1])).pooler_output
        # In float32: a cosine of .2 rounded to bf16, times the temperature, would come in steps of an eighth.
        text_unit = F.normalize(clip.text_projection(text).float(), dim=-1).view(*input_ids.shape[:-1], -1)
        image = image_features if text_unit.ndim == image_features.ndim else image_features.unsqueeze(1)
        return (image.float() * text_unit).sum(-1) * clip.logit_scale.float().exp()

    def freeze_lower(self, fix_rate: float) -> list[str]:
        super().freeze_lower(fix_rate)
        text = self._both_towers.text_model
        _freeze_tower(text.embeddings, text.encoder.layers, fix_rate)
        self._both_towers.logit_scale.requires_grad_(False)
        return self._frozen()

    @property
    def _both_towers(self) -> CLIPModel:
        return cast(CLIPModel, self.clip)


class AestheticReward(ClipScorer):
    """Linear layers on CLIP's unit embedding of the image; the prompt does not count.

    Source of the form: christophschuhmann/improved-aesthetic-predictor, whose layers have no activation between them.
    """

    def __init__(
        self, config: AestheticConfig, tokenizer: PreTrainedTokenizerFast | None = None, *, seed: int = 0
    ) -> None:
        """tokenizer: not used, as there is no text encoder."""
        super().__init__(config, None)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.clip = CLIPVisionModelWithProjection(
                CLIPVisionConfig(**config.vision, projection_dim=config.embedding_width)
            )
            self.head = nn.Sequential(
                *(nn.Linear(*sizes) for sizes in pairwise((config.embedding_width, *config.head_widths, 1)))
            )

    def score_tokens(self, image_features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        score_B = self.head(image_features.to(self.clip.dtype)).squeeze(-1)
        return score_B if input_ids.ndim == 2 else score_B.unsqueeze(1).expand(input_ids.shape[:-1])

    def tokenize(self, prompts: Sequence[str]) -> TextTokens:
        """One token of zero [B,1] for each prompt; the score depends on the image alone."""
        unread = torch.zeros(len(prompts), 1, dtype=torch.long, device=self.reward_mean.device)
        return TextTokens(unread, unread)


def _check_sizes(tower: str, given: Sizes, known: Sequence[str]) -> None:
    if set(given) != set(known):
        raise ConfigError(f"the {tower} tower of a CLIP reward has {sorted(given)}: must have {sorted(known)}")


def _freeze_tower(stem: nn.Module, layers: nn.ModuleList, fix_rate: float) -> None:
    """At 0 nothing is frozen; at any other rate the embeddings are, and that share of the layers."""
    for module in (stem, *layers[: round(fix_rate * len(layers))]) if fix_rate > 0 else ():
        module.requires_grad_(False)
