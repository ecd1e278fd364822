"""A reward model small enough for a test of a millisecond, with images and captions for it."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from itercomp_rl.reward.model import RewardConfig, RewardModel, TextTokens

TOWER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}


def tiny_config(**changes: Any) -> RewardConfig:
    config = RewardConfig(
        image_size=16,
        vision={**TOWER, "patch_size": 4},
        text={**TOWER, "num_hidden_layers": 2, "vocab_size": 20, "max_position_embeddings": 8},
        max_text_tokens=8,
        mlp_widths=(16, 8),
        mlp_dropouts=(0.2, 0.1),
        mlp_init="unit_gain",
    )
    return replace(config, **changes)


def tiny_model(seed: int = 0, **changes: Any) -> RewardModel:
    return RewardModel(tiny_config(**changes), seed=seed).eval()


def images(num: int = 3, height: int = 16, width: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(num, 3, height, width, generator=torch.Generator().manual_seed(seed))


def texts(num: int = 3, length: int = 8, seed: int = 0) -> TextTokens:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 20, (num, length), generator=generator)
    mask = (torch.arange(length) < torch.randint(2, length + 1, (num, 1), generator=generator)).long()
    return TextTokens(ids * mask, mask)
