"""How well a UNet looks where a layout puts things: an energy over cross-attention maps, differentiable in the latents.

Legend: B images, A heads, P places of a map (row by row), L text tokens, H W height and width of a map.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from itercomp_rl.errors import CheckpointError
from itercomp_rl.gallery.planning.layout import Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What counts as looking right; the defaults are LMD+'s.

    form "top": inside its boxes a token's strongest places should reach 1, outside they should vanish (LMD).
    form "share": the share of a token's attention that falls inside should be 1 (layout guidance, arXiv 2304.03373).
    """

    form: Literal["top", "share"] = "top"
    inside_top: float = 0.2  # share of the places inside the boxes that are asked to look
    outside_top: float = 0.2  # share of the places outside that are asked not to
    inside_weight: float = 1.0
    outside_weight: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedObject:
    """One phrase: GuidedObject(phrase="a red cup", boxes=(Box(...),), tokens=(2, 3, 4)), places in the prompt."""

    phrase: str
    boxes: tuple[Box, ...]
    tokens: tuple[int, ...]

    @property
    def word(self) -> int:
        """The token that stands for the whole phrase: its last."""
        return self.tokens[-1]


def box_mask(boxes: Sequence[Box], height: int, width: int) -> Tensor:
    """Float mask [H, W], 1 inside any of the boxes: corners and sides rounded (half to even), cut at the border."""
    mask = torch.zeros(height, width)
    for box in boxes:
        top, left = round(box.top * height), round(box.left * width)
        bottom = top + round((box.bottom - box.top) * height)
        right = left + round((box.right - box.left) * width)
        mask[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)] = 1
    return mask


def attention_energy(
    maps: Sequence[Tensor], masks: Sequence[Sequence[Tensor]], tokens: Sequence[Sequence[int]], energy: Energy
) -> Tensor:
    """The energy of one image: mean over objects and maps, mean over an object's tokens, sum over heads; a scalar.

    maps: [A, P, L] each. masks: for every map, for every object, float [H, W] with H W = P. tokens: of every object.
    Form "share" is a mean over heads. No objects: 0.
    Source: LLM-grounded diffusion (arXiv 2305.13655) and its LMD+ settings.
    """
    total = torch.zeros((), device=maps[0].device)
    if not tokens:
        return total
    rule = _top_energy if energy.form == "top" else _share_energy
    for attention, map_masks in zip(maps, masks, strict=True):
        for mask, places in zip(map_masks, tokens, strict=True):
            looked = attention[:, :, list(places)].float()
            total = total + rule(looked, mask.flatten().to(looked.device), energy) / len(places)
    return total / (len(tokens) * len(maps))


def _top_energy(looked_APT: Tensor, mask_P: Tensor, energy: Energy) -> Tensor:
    inside = looked_APT * mask_P[:, None]
    outside = looked_APT * (1 - mask_P)[:, None]
    num_inside = max(int(mask_P.sum() * energy.inside_top), 1)
    num_outside = max(int((1 - mask_P).sum() * energy.outside_top), 1)
    missing = 1 - inside.topk(num_inside, dim=1).values.mean(dim=1)
    astray = outside.topk(num_outside, dim=1).values.mean(dim=1)
    return missing.sum() * energy.inside_weight + astray.sum() * energy.outside_weight


def _share_energy(looked_APT: Tensor, mask_P: Tensor, energy: Energy) -> Tensor:
    share = (looked_APT * mask_P[:, None]).sum(dim=1) / looked_APT.sum(dim=1)
    return ((1 - share) ** 2).mean(dim=0).sum()


def reference_energy(
    maps: Sequence[Tensor],
    boxes: Sequence[Sequence[Box]],
    words: Sequence[int],
    references: Sequence[Sequence[Sequence[Tensor]]],
    sizes: Sequence[tuple[int, int]],
    eps: float = 1e-5,
) -> Tensor:
    """How far each box's attention is from what it was when its object was drawn alone; a scalar, same scale as above.

    maps: [A, P, L] each, of `sizes` (H, W). words: of every object, the token that is compared. references: for every
    object, box and map, the attention [A, P] of the object's word in a picture of its own.
    Both are cut to the box and made to sum to 1; distances are summed over places, averaged over heads and boxes.
    """
    total = torch.zeros((), device=maps[0].device)
    for object_boxes, word, object_references in zip(boxes, words, references, strict=True):
        for box, box_references in zip(object_boxes, object_references, strict=True):
            for attention, reference, size in zip(maps, box_references, sizes, strict=True):
                mask_P = box_mask([box], *size).flatten().to(attention.device)
                inside, wanted = attention[:, :, word].float() * mask_P, reference.float() * mask_P
                inside = inside / (inside.sum(dim=-1, keepdim=True) + eps)
                wanted = wanted / (wanted.sum(dim=-1, keepdim=True) + eps)
                total = total + (inside - wanted).abs().sum(dim=-1).mean() / len(object_boxes)
    return total / (len(boxes) * len(maps))


class _AllMapsTaken(Exception):
    """Ends a forward pass whose rest nobody needs."""


def guided_layers(unet: nn.Module) -> list[str]:
    """Names of the cross-attentions to guide: the middle block's, then those of the first up block that has any.

    In Stable Diffusion 1 these are mid and up.1.{0,1,2}, which LMD guides.
    Raises: CheckpointError if the UNet has none.
    """
    names = [name for name, _ in unet.named_modules() if name.endswith(".attn2")]
    middle = [name for name in names if name.startswith("mid_block.")]
    ups = sorted(name for name in names if name.startswith("up_blocks."))
    first_up = [name for name in ups if name.split(".")[1] == ups[0].split(".")[1]]
    if not middle + first_up:
        raise CheckpointError("the UNet has no cross-attention in its middle and up blocks: attention cannot be guided")
    return middle + first_up


def cross_attention_maps(unet: nn.Module, layers: Sequence[str], run: Callable[[], object]) -> list[Tensor]:
    """Attention probabilities [B, A, P, L] of the named layers when `run()` calls the UNet, differentiable.

    The UNet keeps its attention processors: queries and keys are computed a second time, which costs little, and the
    pass ends at the last of the layers, as the finer up blocks after it, the dearest ones, tell nothing more.
    """
    found: dict[str, Tensor] = {}

    def take(name: str, attention: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        hidden_BPC = args[0] if args else kwargs["hidden_states"]
        query = attention.head_to_batch_dim(attention.to_q(hidden_BPC))
        key = attention.head_to_batch_dim(attention.to_k(kwargs["encoder_hidden_states"]))
        scores = attention.get_attention_scores(query, key)
        found[name] = scores.unflatten(0, (len(hidden_BPC), -1))
        if len(found) == len(layers):
            raise _AllMapsTaken

    hooks = [
        unet.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: take(name, module, args, kwargs), with_kwargs=True
        )
        for name in layers
    ]
    try:
        run()
    except _AllMapsTaken:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [found[name] for name in layers]
