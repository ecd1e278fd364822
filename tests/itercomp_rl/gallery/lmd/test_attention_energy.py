"""Laws of the attention energy, and of the maps that it reads."""

import pytest
import torch
from torch import Tensor

from itercomp_rl.errors import CheckpointError
from itercomp_rl.gallery.lmd.attention_energy import (
    Energy,
    attention_energy,
    box_mask,
    cross_attention_maps,
    guided_layers,
)
from itercomp_rl.gallery.planning.layout import Box
from tests.parts.layout_checkpoints import make_unet


def box(left: float, top: float, right: float, bottom: float) -> Box:
    return Box(phrase="it", left=left, top=top, right=right, bottom=bottom)


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    torch.manual_seed(0)
    return make_unet().eval().requires_grad_(False)


def test_a_box_of_the_left_half_masks_the_left_columns() -> None:
    assert box_mask([box(0, 0, 0.5, 1)], 2, 4).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]


def test_boxes_of_one_object_are_masked_together() -> None:
    both = box_mask([box(0, 0, 0.25, 0.5), box(0.75, 0.5, 1, 1)], 2, 4)
    assert both.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]


def test_a_mask_is_as_wide_wherever_its_box_lies() -> None:
    # 0.3 of 8 places is 2.4, so 2; between rounded corners it would be 2 or 3.
    widths = {int(box_mask([box(left / 50, 0, left / 50 + 0.3, 1)], 1, 8).sum()) for left in range(30)}
    assert widths == {2}


@pytest.mark.parametrize("form", ["top", "share"])
def test_attention_wholly_inside_costs_nothing(form: str) -> None:
    mask = box_mask([box(0, 0, 0.5, 1)], 4, 4)
    attention = mask.flatten()[None, :, None].expand(3, -1, 1)
    assert float(attention_energy([attention], [[mask]], [[0]], Energy(form=form))) == 0  # pyright: ignore[reportArgumentType]


def test_attention_wholly_outside_costs_both_weights_per_head() -> None:
    mask = box_mask([box(0, 0, 0.5, 1)], 4, 4)
    attention = (1 - mask).flatten()[None, :, None].expand(3, -1, 1)
    energy = Energy(inside_weight=1.0, outside_weight=4.0)
    assert float(attention_energy([attention], [[mask]], [[0]], energy)) == 3 * (1 + 4)


def test_the_order_of_objects_has_no_effect() -> None:
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(2, 16, 6, generator=generator)
    masks = [box_mask([box(0, 0, 0.5, 0.5)], 4, 4), box_mask([box(0.5, 0.5, 1, 1)], 4, 4)]
    forth = attention_energy([attention], [masks], [[1, 2], [4]], Energy())
    back = attention_energy([attention], [masks[::-1]], [[4], [1, 2]], Energy())
    torch.testing.assert_close(forth, back)


def test_no_objects_have_no_energy() -> None:
    assert float(attention_energy([torch.ones(2, 16, 6)], [[]], [], Energy())) == 0


def test_the_middle_and_the_first_up_block_with_attention_are_guided(unet: torch.nn.Module) -> None:
    assert guided_layers(unet) == [
        "mid_block.attentions.0.transformer_blocks.0.attn2",
        "up_blocks.1.attentions.0.transformer_blocks.0.attn2",
        "up_blocks.1.attentions.1.transformer_blocks.0.attn2",
    ]


def test_a_unet_without_cross_attention_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no cross-attention"):
        guided_layers(torch.nn.Linear(1, 1))


def call(unet: torch.nn.Module, latents: Tensor, text: Tensor) -> Tensor:
    return unet(latents, torch.tensor([500]), encoder_hidden_states=text, return_dict=False)[0]


def test_the_maps_are_those_the_network_attends_by(unet: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    latents, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 32, generator=generator)
    layers = guided_layers(unet)
    maps = cross_attention_maps(unet, layers, lambda: call(unet, latents, text))
    outputs: dict[str, Tensor] = {}
    for name in layers:
        module = unet.get_submodule(name)
        hook = module.register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output}))
        call(unet, latents, text)
        hook.remove()
    for name, attention in zip(layers, maps, strict=True):
        module = unet.get_submodule(name)
        value = module.get_submodule("to_v")(text).unflatten(-1, (attention.shape[1], -1)).transpose(1, 2)
        mixed = (attention @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(module.get_submodule("to_out.0")(mixed), outputs[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:-1]))


def test_taking_maps_ends_the_pass_early_and_leaves_no_trace(unet: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    latents, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 32, generator=generator)
    before = call(unet, latents, text)
    finished: list[bool] = []
    cross_attention_maps(unet, guided_layers(unet), lambda: finished.append(bool(call(unet, latents, text).any())))
    assert not finished
    assert torch.equal(call(unet, latents, text), before)
