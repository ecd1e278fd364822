"""A small convolutional reward model: the whole image as one vector, times the prompt as one vector, read by a head.

The tiny BLIP scorer binds as well on pictures, but a policy that climbs it learns pictures in which each patch pleases
another reading of the prompt (docs/decisions/0004). One vector for the whole image leaves less room for that.
"""

# B images, C captions of each image, D feature width, L text tokens, S side of an image
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedModel, PreTrainedTokenizerFast

from itercomp_rl.errors import ConfigError
from itercomp_rl.reward.scorer import Scorer, check_tokenizer

_GROUPS = 8  # of every group norm


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """Sizes of a convolutional reward model; each width is a block that halves the image's sides.

    text holds CLIPTextConfig's settings; the prompt is its pooled state.

    Example: ConvConfig(image_size=32, widths=(48, 96, 128), feature_width=256, max_text_tokens=16,
        text={"vocab_size": 39, "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, ...})
    Raises: ConfigError for sizes that do not fit each other.
    """

    text: Mapping[str, Any]  # Any: handed on to transformers' config class, which checks each value
    widths: tuple[int, ...]
    feature_width: int
    image_size: int
    max_text_tokens: int
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        shrink = 2 ** len(self.widths)
        if not self.widths or self.image_size % shrink:
            raise ConfigError(
                f"reward widths are {list(self.widths)} and image_size is {self.image_size}: every width halves the "
                f"image, so image_size must be a multiple of {shrink}, and there must be one width or more"
            )
        if odd := [width for width in self.widths if width % _GROUPS]:
            raise ConfigError(f"reward widths hold {odd[0]}: each must be a multiple of {_GROUPS}")


class ConvReward(Scorer):
    """The convolutional scorer; initial weights follow from `seed` alone and leave the global generator as it was.

    Raises: ConfigError for a tokenizer without padding token or with more tokens than the text encoder.
    """

    def __init__(self, config: ConvConfig, tokenizer: PreTrainedTokenizerFast | None = None, *, seed: int = 0) -> None:
        super().__init__(tokenizer)
        text = CLIPTextConfig(**config.text)
        check_tokenizer(tokenizer, text.vocab_size)
        self.config = config
        self.image_size, self.image_mean, self.image_std = config.image_size, config.image_mean, config.image_std
        self.max_text_tokens = config.max_text_tokens
        side, width = config.image_size // 2 ** len(config.widths), config.feature_width
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.vision = nn.ModuleList(_Block(*sizes) for sizes in pairwise((3, *config.widths)))
            self.image_feature = nn.Linear(config.widths[-1] * side**2, width)
            self.image_norm = nn.LayerNorm(width)
            self.text = CLIPTextModel(text)
            self.text_feature = nn.Sequential(nn.Linear(text.hidden_size, width), nn.GELU(), nn.Linear(width, width))
            self.text_norm = nn.LayerNorm(width)
            self.head = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, 1))

    @property
    def stem(self) -> nn.Module:
        return nn.Identity()

    @property
    def blocks(self) -> nn.ModuleList:
        return self.vision

    @property
    def vision_recipe(self) -> tuple[object, ...]:
        return self.config.widths, self.image_size, self.image_mean, self.image_std

    @property
    def pretrained_parts(self) -> dict[str, PreTrainedModel]:
        return {"text": self.text}

    def vision_prefix(self, image_preprocessed: Tensor, num_blocks: int) -> Tensor:
        hidden = image_preprocessed.to(self.image_feature.weight.dtype)  # bf16 while it learns in bf16
        for i in range(num_blocks):
            hidden = self.vision[i](hidden)
        return hidden

    def vision_suffix(self, hidden: Tensor, num_blocks: int) -> Tensor:
        """The image's feature [B,D]."""
        for i in range(num_blocks, len(self.vision)):
            hidden = self.vision[i](hidden)
        return self.image_norm(self.image_feature(hidden.flatten(1)))

    def score_tokens(self, image_features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # No mask: CLIP's attention is causal, and the state that it pools, at the end mark, sees no padding after it.
        text = self.text(input_ids=input_ids.reshape(-1, input_ids.shape[-1])).pooler_output
        return self.score_pooled(image_features, text.view(*input_ids.shape[:-1], -1))

    def score_pooled(self, image_BD: Tensor, text: Tensor) -> Tensor:
        """Raw rewards [B] of image features under pooled captions [B,W]; [B,C] under [B,C,W]."""
        image = image_BD if text.ndim == image_BD.ndim else image_BD.unsqueeze(1)
        return self.head(image * self.text_norm(self.text_feature(text))).squeeze(-1)

    def freeze_lower(self, fix_rate: float) -> list[str]:
        """Freeze the text encoder and the lower `fix_rate` of the image's blocks; returns the names of the frozen."""
        self.requires_grad_(True)
        for module in (self.text, *self.vision[: round(fix_rate * len(self.vision))]):
            module.requires_grad_(False)
        return [name for name, p in self.named_parameters() if not p.requires_grad]


class _Block(nn.Module):
    """Halves the sides, then looks once more at what it made."""

    def __init__(self, width: int, next_width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(width, next_width, 4, stride=2, padding=1)
        self.down_norm = nn.GroupNorm(_GROUPS, next_width)
        self.conv = nn.Conv2d(next_width, next_width, 3, padding=1)
        self.norm = nn.GroupNorm(_GROUPS, next_width)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = F.gelu(self.down_norm(self.down(hidden)))
        return hidden + F.gelu(self.norm(self.conv(hidden)))
