"""Omost: a planner describes a canvas in words, and every place listens to the sub-prompts that hold there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itercomp_rl.diffusion.policy import Conditioning, Policy
from itercomp_rl.gallery.attention import cross_attention, text_length, text_room
from itercomp_rl.gallery.backbone import Backbones
from itercomp_rl.gallery.omost.canvas_attention import CanvasAttention, CanvasBank
from itercomp_rl.gallery.planning.canvas import GRID, Canvas, Rect, sub_prompts
from itercomp_rl.gallery.planning.planners import Planners
from itercomp_rl.gallery.sampling import KARRAS, negatives, num_unconditional, require_unet, sample
from itercomp_rl.gallery.system import Drawn
from itercomp_rl.items import ModelRef

OPACITY = 0.7  # of a part painted over what lies behind it


class Omost:
    """Canvases on an SD1.x or SDXL checkpoint; satisfies GallerySystem. Source: Omost (lllyasviel/Omost)."""

    def __init__(self, backbones: Backbones, planners: Planners) -> None:
        self._backbones, self._planners = backbones, planners

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """As GallerySystem says; the notes hold each image's plan."""
        planned = self._planners.canvases(model.planner, prompts)
        policy = self._backbones.policy(model)
        require_unet(policy, model)
        canvases = [canvas for canvas, _ in planned]
        base, conditions = _encoded(policy, canvases)
        bank = CanvasBank(
            conditions=conditions,
            first_row=num_unconditional(model, len(prompts)),
            latent_hw=(policy.latent_shape[1], policy.latent_shape[2]),
        )
        network = policy.guided(base, model.guidance, negatives(model, len(prompts)))
        start = _colours(policy, canvases) if model.scheduler == KARRAS else None
        with cross_attention(policy.trainable, CanvasAttention(bank)):
            images = sample(policy, model, network, seeds, start)
        return Drawn(images=images, notes=tuple(note for _, note in planned))


def _encoded(policy: Policy, canvases: Sequence[Canvas]) -> tuple[Conditioning, list[list[tuple[Tensor, Tensor]]]]:
    """The conditioning of each canvas as a whole, and its masks with their tokens; all texts encoded in one batch."""
    tokenizer = policy.pipeline.tokenizer
    room = text_room(tokenizer)

    def count(text: str) -> int:
        return text_length(tokenizer, _spoken(tokenizer, text))

    texts: list[str] = []
    places: list[list[tuple[Rect, slice]]] = []
    for canvas in canvases:
        places.append([])
        for condition in canvas.conditions():
            bags = [_spoken(tokenizer, text) for text in sub_prompts(condition, count, room)]
            places[-1].append((condition.rect, slice(len(texts), len(texts) + len(bags))))
            texts += bags
    cond = policy.encode(texts)
    conditions = [
        [(_mask(rect, policy.device), cond.tokens[rows].flatten(0, 1)) for rect, rows in canvas] for canvas in places
    ]
    return cond.index([canvas[0][1].start for canvas in places]), conditions


def _spoken(tokenizer: Any, text: str) -> str:
    """The text without full stops where the vocabulary has none: an unknown word after each phrase misleads."""
    is_unknown = tokenizer.unk_token_id in tokenizer(".", add_special_tokens=False).input_ids
    return " ".join(text.replace(".", " ").split()) if is_unknown else text


def _mask(rect: Rect, device: torch.device) -> Tensor:
    top, bottom, left, right = rect
    mask = torch.zeros(GRID, GRID, dtype=torch.bool, device=device)
    mask[top:bottom, left:right] = True
    return mask


def painted(canvas: Canvas) -> NDArray[np.uint8]:
    """The canvas in its colours [90, 90, 3], far parts first, each over what lies behind it."""
    image = np.zeros((GRID, GRID, 3), np.float32) + np.array(canvas.colour)
    for part in canvas.far_first:
        top, bottom, left, right = part.rect
        behind = image[top:bottom, left:right]
        image[top:bottom, left:right] = OPACITY * np.array(part.colour) + (1 - OPACITY) * behind
    return image.clip(0, 255).astype(np.uint8)


def _colours(policy: Policy, canvases: Sequence[Canvas]) -> Tensor:
    """Clean latents [B, C, H, W] of the painted canvases."""
    images = torch.from_numpy(np.stack([painted(canvas) for canvas in canvases])).to(policy.device)
    images = images.permute(0, 3, 1, 2).float() / 255
    return policy.encode_images(torch.nn.functional.interpolate(images, policy.size_px, mode="bilinear"))
