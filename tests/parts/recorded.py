"""Layers with the weights that a recording came from."""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention


def attention_of(tensors: dict[str, torch.Tensor], sizes: dict[str, Any]) -> Attention:
    attention = Attention(
        query_dim=sizes["query_dim"],
        cross_attention_dim=sizes["cross_attention_dim"],
        heads=sizes["heads"],
        dim_head=sizes["dim_head"],
    )
    weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
    attention.load_state_dict(weights)
    return attention.eval()
