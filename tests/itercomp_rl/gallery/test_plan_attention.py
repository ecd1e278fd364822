"""Laws of the attention processors: a prompt acts where the plan says and nowhere else."""

import pytest
import torch
from diffusers.models.attention_processor import Attention

from itercomp_rl.gallery.attention import map_size
from itercomp_rl.gallery.omost.canvas_attention import CanvasAttention, CanvasBank
from itercomp_rl.gallery.rpg.region_attention import RegionAttention, RegionBank

H, W, TOKENS = 6, 8, 5


def make_attention() -> Attention:
    torch.manual_seed(0)
    return Attention(query_dim=16, cross_attention_dim=12, heads=2, dim_head=8).eval()


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def regional(tokens: torch.Tensor, base: torch.Tensor, base_ratio: float) -> torch.Tensor:
    """Two rows: the first without regions, the second cut into a left and a right half; [2, H, W, 16]."""
    attention = make_attention()
    bank = RegionBank(
        rows=torch.tensor([1, 1]),
        tokens=tokens,
        cells=[(0.0, 1.0, 0.0, 0.5), (0.0, 1.0, 0.5, 1.0)],
        base_ratio=base_ratio,
        latent_hw=(H, W),
    )
    attention.set_processor(RegionAttention(bank))
    return attention(drawn(1, 2, H * W, 16), encoder_hidden_states=base).unflatten(1, (H, W))


def test_a_region_s_prompt_acts_inside_its_cell_alone_and_without_base_ratio_nothing_else_does() -> None:
    tokens, base = drawn(2, 2, TOKENS, 12), drawn(3, 2, TOKENS, 12)
    other_right = torch.cat([tokens[:1], drawn(4, 1, TOKENS, 12)])
    before, after = regional(tokens, base, 0.0), regional(other_right, base, 0.0)
    assert torch.equal(before[1, :, : W // 2], after[1, :, : W // 2])
    assert not torch.isclose(before[1, :, W // 2 :], after[1, :, W // 2 :]).all(-1).any()
    torch.testing.assert_close(regional(tokens, drawn(5, 2, TOKENS, 12), 0.0)[1], before[1])


def test_a_base_ratio_of_one_is_plain_attention_and_rows_without_regions_always_are() -> None:
    tokens, base = drawn(2, 2, TOKENS, 12), drawn(3, 2, TOKENS, 12)
    with torch.no_grad():
        plain = make_attention()(drawn(1, 2, H * W, 16), encoder_hidden_states=base).unflatten(1, (H, W))
    torch.testing.assert_close(regional(tokens, base, 1.0), plain)
    torch.testing.assert_close(regional(tokens, base, 0.3)[0], plain[0])


def test_regions_that_all_say_the_base_prompt_are_plain_attention() -> None:
    base = drawn(3, 2, TOKENS, 12)
    with torch.no_grad():
        plain = make_attention()(drawn(1, 2, H * W, 16), encoder_hidden_states=base).unflatten(1, (H, W))
    torch.testing.assert_close(regional(base[1:].repeat(2, 1, 1), base, 0.5), plain)


@torch.no_grad()
def canvas(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """One canvas whose only part fills the left half of the grid; [H, W, 16]."""
    attention = make_attention()
    everywhere, left = torch.ones(90, 90, dtype=torch.bool), torch.zeros(90, 90, dtype=torch.bool)
    left[:, :45] = True
    bank = CanvasBank(conditions=[[(everywhere, whole), (left, part)]], first_row=0, latent_hw=(H, W))
    attention.set_processor(CanvasAttention(bank))
    return attention(drawn(1, 1, H * W, 16), encoder_hidden_states=whole[None]).unflatten(1, (H, W))[0]


def test_a_part_of_a_canvas_acts_in_its_place_alone() -> None:
    whole = drawn(3, TOKENS, 12)
    before, after = canvas(drawn(4, TOKENS, 12), whole), canvas(drawn(5, TOKENS, 12), whole)
    assert torch.equal(before[:, W // 2 :], after[:, W // 2 :])
    assert not torch.isclose(before[:, : W // 2], after[:, : W // 2]).all(-1).any()


def test_where_no_part_stands_a_canvas_is_plain_attention_to_the_whole_prompt() -> None:
    whole = drawn(3, TOKENS, 12)
    with torch.no_grad():
        plain = make_attention()(drawn(1, 1, H * W, 16), encoder_hidden_states=whole[None]).unflatten(1, (H, W))[0]
    torch.testing.assert_close(canvas(drawn(4, TOKENS, 12), whole)[:, W // 2 :], plain[:, W // 2 :])


def test_canvases_of_a_batch_do_not_see_each_other_s_tokens() -> None:
    everywhere = torch.ones(90, 90, dtype=torch.bool)
    long, short = drawn(3, 3 * TOKENS, 12), drawn(4, TOKENS, 12)
    hidden = drawn(1, 2, H * W, 16)

    @torch.no_grad()
    def attended(conditions: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        attention = make_attention()
        bank = CanvasBank(conditions=[[(everywhere, t)] for t in conditions], first_row=0, latent_hw=(H, W))
        attention.set_processor(CanvasAttention(bank))
        return attention(rows, encoder_hidden_states=torch.zeros(len(rows), 1, 12))

    torch.testing.assert_close(attended([long, short], hidden)[1:], attended([short], hidden[1:]))


@pytest.mark.parametrize(
    ("places", "latent", "size"), [(64, (8, 8), (8, 8)), (16, (8, 8), (4, 4)), (6, (5, 9), (2, 3))]
)
def test_a_map_s_size_follows_from_the_latents(places: int, latent: tuple[int, int], size: tuple[int, int]) -> None:
    assert map_size(places, latent) == size  # (5, 9) -> (3, 5) -> (2, 3)


def test_a_map_of_other_latents_is_noticed() -> None:
    with pytest.raises(ValueError, match="63 places"):
        map_size(63, (8, 8))
