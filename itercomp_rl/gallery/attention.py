"""What the attention processors of plan-drawn systems share: attention by hand, maps, and putting them in and out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

# B rows of the network's batch, N places of a feature map row by row, L text tokens, C channels of the map, D of text


@contextmanager
def cross_attention(network: nn.Module, processor: Any) -> Iterator[None]:
    """Every cross-attention of a diffusers UNet goes through `processor` while this lasts, and as before after it."""
    unet: Any = network  # Any: ModelMixin's processor methods are not on nn.Module
    before = dict(unet.attn_processors)
    unet.set_attn_processor({name: processor if ".attn2." in name else old for name, old in before.items()})
    try:
        yield
    finally:
        unet.set_attn_processor(before)


def attend(
    attention: Attention, hidden: Tensor, tokens: Tensor, *, mask: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """Attention of hidden [B, N, C] over tokens [B, L, D], before the output projection; [B, N, inner].

    mask: [B, N, L], True where a place may see a token. scale: [B, L], factor of the scores of a token.
    """
    rows = len(hidden)
    query = attention.to_q(hidden).view(rows, -1, attention.heads, attention.to_q.out_features // attention.heads)
    if attention.norm_cross:
        tokens = attention.norm_encoder_hidden_states(tokens)
    key, value = (part.view(rows, tokens.shape[1], attention.heads, -1) for part in _key_value(attention, tokens))
    if scale is not None:
        key = key * scale[:, :, None, None].to(key.dtype)
    seen = None if mask is None else mask[:, None]
    out = nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=seen, scale=attention.scale
    )
    return out.transpose(1, 2).reshape(rows, hidden.shape[1], -1)


def _key_value(attention: Attention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    assert attention.to_k is not None and attention.to_v is not None, "cross-attention has keys and values"
    return attention.to_k(tokens), attention.to_v(tokens)


def project(attention: Attention, out: Tensor) -> Tensor:
    """The output projection of an attention module, [B, N, C]."""
    assert attention.to_out is not None, "cross-attention projects its output"
    return attention.to_out[1](attention.to_out[0](out))


def map_size(num_places: int, latent_hw: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a feature map of so many places: the latents' size halved, rounding up, until it fits.

    Raises: ValueError if no number of halvings gives it.
    """
    height, width = latent_hw
    while height * width > num_places and (height > 1 or width > 1):
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != num_places:
        raise ValueError(f"a feature map of {num_places} places does not come from latents of {latent_hw}")
    return height, width


def text_room(tokenizer: Any) -> int:
    """How many tokens of text a tokenizer's rows hold between their marks."""
    return tokenizer.model_max_length - 2


def text_length(tokenizer: Any, text: str) -> int:
    """Tokens of a text without marks."""
    return len(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)
