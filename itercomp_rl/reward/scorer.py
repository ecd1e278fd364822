"""What every reward model is, whatever its network: one aspect's score of an image under a prompt, differentiable."""

# B images, C captions of each image, L text tokens, S side of an image as the network takes it
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from itercomp_rl.errors import ConfigError
from itercomp_rl.store.image_loader import View


class TextTokens(NamedTuple):
    """Captions as a text encoder reads them: ids and 0/1 mask, int64 [B,L], or [B,C,L] for C captions an image."""

    input_ids: Tensor
    attention_mask: Tensor


class Scorer(nn.Module, ABC):
    """One aspect's scorer. `forward` gives raw rewards to learn from, `score` standardised ones to compare or to climb.

    reward_mean and reward_std are buffers, so they travel with the weights; 0 and 1 until `calibrate`. Built in train
    mode, as modules are: `score` refuses it, since dropout alone moves a score by about its own spread.
    An image runs through `stem` and then `blocks`, so that scorers whose lower blocks are the same can share them.
    """

    reward_mean: Tensor
    reward_std: Tensor
    image_size: int  # S, pixels
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    max_text_tokens: int
    attention: str = "sdpa"  # or "flash", where a network has attention that it can serve

    def __init__(self, tokenizer: PreTrainedTokenizerFast | None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.register_buffer("reward_mean", torch.tensor(0.0))
        self.register_buffer("reward_std", torch.tensor(1.0))

    @property
    @abstractmethod
    def stem(self) -> nn.Module:
        """What an image passes before the first block."""

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The image's blocks, lowest first."""

    @property
    @abstractmethod
    def vision_recipe(self) -> tuple[object, ...]:
        """All that decides what stem and blocks compute, beside their weights and their number."""

    @property
    @abstractmethod
    def pretrained_parts(self) -> dict[str, PreTrainedModel]:
        """The parts that are transformers' own models, by the name of their attribute."""

    @abstractmethod
    def vision_prefix(self, image_preprocessed: Tensor, num_blocks: int) -> Tensor:
        """Hidden states of images [B,3,S,S] after the stem and the first `num_blocks` blocks."""

    @abstractmethod
    def vision_suffix(self, hidden: Tensor, num_blocks: int) -> Tensor:
        """The image's features from what `vision_prefix` gave for the same `num_blocks`."""

    @abstractmethod
    def score_tokens(self, image_features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Raw rewards [B] of encoded images under captions [B,L]; [B,C] under [B,C,L]."""

    def encode_image(self, image_preprocessed: Tensor) -> Tensor:
        """The image's features; encode once, then score any number of captions."""
        return self.vision_suffix(self.vision_prefix(image_preprocessed, 0), 0)

    def forward(self, image_preprocessed: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Raw rewards [B] of preprocessed images [B,3,S,S] under captions [B,L]; [B,C] under C captions each."""
        return self.score_tokens(self.encode_image(image_preprocessed), input_ids, attention_mask)

    def tokenize(self, prompts: Sequence[str]) -> TextTokens:
        """Ids and mask [B, max_text_tokens], padded and truncated, on the model's device."""
        if self.tokenizer is None:
            raise ConfigError("this reward model has no tokenizer: give one to the model, or load one that was saved")
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.max_text_tokens,
            return_tensors="pt",
        )
        device = self.reward_mean.device
        return TextTokens(tokens["input_ids"].to(device), tokens["attention_mask"].to(device))

    def preprocess(self, image_B3HW: Tensor) -> Tensor:
        """Images of any size in 0..1 -> [B,3,S,S]: shorter side to S (bicubic, antialias), centre crop, normalised."""
        return self.normalise(self.fit(image_B3HW))

    def fit(self, image_B3HW: Tensor) -> Tensor:
        """Images of any size in 0..1 -> [B,3,S,S], about in 0..1 still: shorter side to S (bicubic), centre crop."""
        if not image_B3HW.is_floating_point() or image_B3HW.ndim != 4 or image_B3HW.shape[1] != 3:
            raise ValueError(
                f"image is {image_B3HW.dtype} {list(image_B3HW.shape)}: must be floats in 0..1, shaped [B,3,H,W]"
            )
        return shorter_side_to(self.image_size, image_B3HW)

    def normalise(self, image_B3SS: Tensor) -> Tensor:
        """Images as `fit` gives them -> as the network takes them."""
        mean, std = (image_B3SS.new_tensor(c).view(3, 1, 1) for c in (self.image_mean, self.image_std))
        return (image_B3SS - mean) / std

    @property
    def view(self) -> View:
        """Images as `fit` gives them, rounded to bytes, as ImageReward itself does."""
        size = self.image_size
        return View(f"reward-{size}", (size, size), lambda image: shorter_side_to(size, image))

    def score(self, image_B3HW: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Standardised rewards [B], float32, of images in 0..1; differentiable in the image.

        Raises: RuntimeError in train mode. It is not switched off here: a score must not change a learner's mode.
        """
        self.require_eval()
        return self.standardise(self(self.preprocess(image_B3HW), input_ids, attention_mask))

    def standardise(self, raw: Tensor) -> Tensor:
        """(raw - mean) / std of the held-out images the model was calibrated on."""
        return (raw.float() - self.reward_mean.float()) / self.reward_std.float()

    def calibrate(self, raw_N: Tensor) -> None:
        """Take mean and (unbiased) standard deviation from raw rewards of held-out images.

        Raises: ValueError for fewer than two, a value not finite, or no spread.
        """
        raw_N = raw_N.detach().double().flatten()
        if raw_N.numel() < 2 or not bool(raw_N.isfinite().all()) or float(raw_N.std()) == 0:
            raise ValueError(
                f"cannot calibrate on {raw_N.numel()} raw rewards between {raw_N.tolist()[:8]}...: needs two or more, "
                "finite, not all equal"
            )
        self.reward_mean.copy_(raw_N.mean())
        self.reward_std.copy_(raw_N.std())

    def require_eval(self) -> None:
        """Raises: RuntimeError if any part is in train mode."""
        if any(module.training for module in self.modules()):
            raise RuntimeError("the reward model is in train mode and its score would be noise: call eval() first")


def check_tokenizer(tokenizer: PreTrainedTokenizerFast | None, vocab_size: int) -> None:
    """Raises: ConfigError for a tokenizer without padding token, or with more tokens than the text encoder has."""
    if tokenizer is None:
        return
    if tokenizer.pad_token is None:
        raise ConfigError("the reward tokenizer has no padding token: set tokenizer.pad_token, e.g. to '[PAD]'")
    if len(tokenizer) > vocab_size:
        raise ConfigError(f"the reward tokenizer has {len(tokenizer)} tokens, text vocab_size is {vocab_size}: too few")


def shorter_side_to(size: int, image_B3HW: Tensor) -> Tensor:
    """The middle of images whose shorter side was scaled to `size` (bicubic, antialias): [B,3,S,S]."""
    height, width = image_B3HW.shape[-2:]
    short = min(height, width)
    if short != size:
        target = (int(size * height / short), int(size * width / short))
        image_B3HW = F.interpolate(image_B3HW, target, mode="bicubic", antialias=True, align_corners=False)
        height, width = target
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image_B3HW[..., top : top + size, left : left + size]
