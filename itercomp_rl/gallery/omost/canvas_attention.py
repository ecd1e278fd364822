"""Attention over a canvas: every place listens to the whole picture's prompt and to those of the parts it lies in."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from itercomp_rl.gallery.attention import attend, map_size, project

# R rows of the network's batch that have a canvas, B all rows, N = H x W places, L text tokens, D channels of text


@dataclass(frozen=True, kw_only=True)
class CanvasBank:
    """Conditions of each canvas: masks on the grid [90, 90] bool with the tokens [L, D] that hold there."""

    conditions: Sequence[Sequence[tuple[Tensor, Tensor]]]  # R of them; one mask of each is True everywhere
    first_row: int  # canvases are rows first_row.. of the batch, the rows before listen to the call's own tokens
    latent_hw: tuple[int, int]

    def tokens(self) -> Tensor:
        """[R, L, D] of all conditions one after another, padded with zeros that no place sees."""
        rows = [torch.cat([tokens for _, tokens in conditions]) for conditions in self.conditions]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def masks(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """[R, H * W, L], which tokens a place sees; [R, L], the factor of their scores, places by places in a mask."""
        seen, factors = [], []
        for conditions in self.conditions:
            masks = torch.stack([mask for mask, _ in conditions])[:, None].float()
            small = torch.nn.functional.interpolate(masks, (height, width), mode="nearest-exact").flatten(1) > 0.5
            lengths = torch.tensor([len(tokens) for _, tokens in conditions], device=small.device)
            # A part smaller than one place of this map is seen by none, whatever its factor.
            factor = height * width / small.sum(1).clamp(min=1)
            seen.append(small.repeat_interleave(lengths, dim=0))
            factors.append(factor.repeat_interleave(lengths))
        pad = torch.nn.utils.rnn.pad_sequence
        return pad(seen, batch_first=True).transpose(1, 2), pad(factors, batch_first=True)


class CanvasAttention:
    """The processor of a network's cross-attentions while a CanvasBank is drawn.

    Scores of a part are multiplied by the inverse of its share of the picture before mask and softmax, which equals
    scaled keys. Source: Omost (lllyasviel/Omost), its regional attention.
    """

    def __init__(self, bank: CanvasBank) -> None:
        self._bank = bank
        self._tokens = bank.tokens()
        self._masks: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """[B, N, C] of hidden_states [B, N, C]; rows without a canvas listen to encoder_hidden_states [B, L, D]."""
        assert encoder_hidden_states is not None, "only cross-attentions are given this processor"
        first, num_places = self._bank.first_row, hidden_states.shape[1]
        if num_places not in self._masks:
            self._masks[num_places] = self._bank.masks(*map_size(num_places, self._bank.latent_hw))
        seen, factor = self._masks[num_places]
        tokens = self._tokens.to(hidden_states.dtype)
        own = attend(attn, hidden_states[first:], tokens, mask=seen, scale=factor)
        plain = [attend(attn, hidden_states[:first], encoder_hidden_states[:first])] if first else []
        return project(attn, torch.cat([*plain, own]))
