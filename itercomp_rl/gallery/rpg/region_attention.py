"""Complementary regional attention: each cell of the picture listens to its own prompt, and to the base prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from itercomp_rl.gallery.attention import attend, map_size, project
from itercomp_rl.gallery.planning.regions import Cell

# M regions of all images, B rows of the network's batch, N = H x W places, L text tokens, D channels of text


@dataclass(frozen=True, kw_only=True)
class RegionBank:
    """Region prompts of a whole batch; rows that no region names listen to what the network was called with alone."""

    rows: Tensor  # [M] row of the network's batch that a region belongs to
    tokens: Tensor  # [M, L, D]
    cells: Sequence[Cell]  # M of (top, bottom, left, right); those of one row tile the picture
    base_ratio: float  # share of the base prompt everywhere
    latent_hw: tuple[int, int]

    def masks(self, height: int, width: int) -> Tensor:
        """[M, H * W], 1 inside a region's cell; cells cut at whole places as RPG cuts them."""
        masks = torch.zeros(len(self.cells), height, width, device=self.tokens.device)
        for mask, (top, bottom, left, right) in zip(masks, self.cells, strict=True):
            mask[int(height * top) : int(height * bottom), int(width * left) : int(width * right)] = 1
        return masks.flatten(1)


class RegionAttention:
    """The processor of a network's cross-attentions while a RegionBank is drawn.

    output = base_ratio * base + (1 - base_ratio) * the region's; composed before the output projection, which is
    linear, so that it runs once. Source: RPG (arXiv 2401.11708), complementary regional diffusion.
    """

    def __init__(self, bank: RegionBank) -> None:
        self._bank = bank
        self._masks: dict[int, Tensor] = {}

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """[B, N, C] of hidden_states [B, N, C]; the base prompts are encoder_hidden_states [B, L, D]."""
        assert encoder_hidden_states is not None, "only cross-attentions are given this processor"
        bank = self._bank
        base = attend(attn, hidden_states, encoder_hidden_states)
        masks = self._masks_of(hidden_states.shape[1]).to(base.dtype)
        inside = attend(attn, hidden_states[bank.rows], bank.tokens.to(hidden_states.dtype)) * masks[:, :, None]
        share = torch.zeros_like(base[:, :, :1]).index_add(0, bank.rows, masks[:, :, None])  # 1 in rows with regions
        own = torch.zeros_like(base).index_add(0, bank.rows, inside)
        base_share = 1 - (1 - bank.base_ratio) * share
        return project(attn, base_share * base + (1 - bank.base_ratio) * own)

    def _masks_of(self, num_places: int) -> Tensor:
        if num_places not in self._masks:
            self._masks[num_places] = self._bank.masks(*map_size(num_places, self._bank.latent_hw))
        return self._masks[num_places]
