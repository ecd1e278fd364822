"""LMD+: pictures by layout from Stable Diffusion 1, with GLIGEN's trained layers where a checkpoint has them.

Two forces put things into their boxes. GLIGEN's gated attention reads phrases and boxes in the first steps. And before
each early step the latents descend the attention energy, so that the words look into their boxes. The second needs no
training: with a plain Stable Diffusion checkpoint it is training-free layout guidance.
Source: LLM-grounded diffusion (arXiv 2305.13655), GLIGEN (arXiv 2301.07093).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itercomp_rl.diffusion.denoise import Network, Schedule, denoise, image_generators
from itercomp_rl.diffusion.policy import Policy, as_uint8
from itercomp_rl.errors import CheckpointError
from itercomp_rl.gallery.attention import map_size
from itercomp_rl.gallery.grounded_prompt import grounded_prompt, pooled_phrases
from itercomp_rl.gallery.lmd.attention_energy import (
    Energy,
    GuidedObject,
    attention_energy,
    box_mask,
    cross_attention_maps,
    guided_layers,
    reference_energy,
)
from itercomp_rl.gallery.planning.layout import MAX_BOXES, Box, Layout
from itercomp_rl.gallery.sampling import refuse_vain_negative

# B images, N slots for boxes, D width of the text encoder, C H W of latents


@dataclass(frozen=True, slots=True, kw_only=True)
class LmdSettings:
    """Constants of LMD+; steps are counted on its scale of 50 and stretched to the steps a member takes."""

    energy: Energy = field(default_factory=Energy)
    scale: float = 5.0  # of the energy, before its gradient
    threshold: float = 5 / 8  # energy per head below which an image is let go; LMD+ says 5 for 8 heads
    iterations: tuple[int, ...] = (4,) * 5 + (3,) * 5 + (2,) * 10 + (1,) * 10  # at each of 50 steps; none after
    grounded_share: float = 0.4  # of the steps during which GLIGEN's layers are on
    reference_weight: float = 2.0  # of being near the attention of each object drawn alone; 0 spares drawing them

    def iterations_at(self, step: int, num_steps: int) -> int:
        at = step * 50 // num_steps
        return self.iterations[at] if at < len(self.iterations) else 0

    def num_guided(self, num_steps: int) -> int:
        """Steps from the first up to the last with any guidance."""
        return max((step + 1 for step in range(num_steps) if self.iterations_at(step, num_steps)), default=0)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the network is conditioned on: text, and GLIGEN's slots; `grounding` is None where its layers are off."""

    tokens: Tensor  # [B, L, D] of the prompts
    grounding: dict[str, Tensor] | None  # boxes [B, N, 4], positive_embeddings [B, N, D], masks [B, N]

    def index(self, rows: Sequence[int]) -> "Conditions":
        rows = list(rows)
        grounding = None if self.grounding is None else {name: t[rows] for name, t in self.grounding.items()}
        return Conditions(tokens=self.tokens[rows], grounding=grounding)

    def beside_nothing(self, empty: Tensor) -> "Conditions":
        """Twice the batch: first text `empty` [B, L, D] and no boxes, then this."""
        grounding = None
        if self.grounding is not None:
            grounding = {name: torch.cat([t, t]) for name, t in self.grounding.items()}
            grounding["masks"] = torch.cat([torch.zeros_like(self.grounding["masks"]), self.grounding["masks"]])
        return Conditions(tokens=torch.cat([empty, self.tokens]), grounding=grounding)


# Attention [A, P] of one box's word in a picture of its own: for every step, for every map.
Reference = list[list[Tensor]]


class LmdDenoiser:
    """Draws layouts with one checkpoint of the Stable Diffusion 1 family; keeps nothing between calls."""

    def __init__(self, policy: Policy, settings: LmdSettings) -> None:
        self._policy, self._settings = policy, settings
        self._unet: Any = policy.trainable  # Any: a UNet2DConditionModel, called with its own keywords
        self._layers = guided_layers(policy.trainable)
        self._has_gligen = self._unet.config.attention_type == "gated"
        if not self._has_gligen and self._unet.config.attention_type != "default":
            raise CheckpointError(
                f"the UNet states attention_type {self._unet.config.attention_type!r}: GLIGEN's layers are used where "
                "they read boxes and phrases, 'gated'"
            )

    @torch.no_grad()
    def draw(
        self,
        layouts: Sequence[Layout],
        seeds: Sequence[int],
        num_steps: int,
        *,
        guidance: float = 7.5,
        negative: str | None = None,
        kind: str | None = None,
    ) -> tuple[np.ndarray, list[tuple[str, ...]]]:
        """Images uint8 [B, H, W, 3], one per layout and seed, and per image the phrases that attention cannot follow.

        A layout without boxes is drawn exactly as its prompt alone is. A phrase cannot be followed where the prompt is
        so long that the text encoder never reads it.
        """
        refuse_vain_negative(negative, guidance)
        images = np.zeros((len(layouts), *self._policy.size_px, 3), np.uint8)
        unseen: list[tuple[str, ...]] = [()] * len(layouts)
        boxed = [b for b, layout in enumerate(layouts) if layout.boxes]
        if plain := [b for b, layout in enumerate(layouts) if not layout.boxes]:
            images[plain] = self._policy.draw(
                [layouts[b].prompt for b in plain],
                [seeds[b] for b in plain],
                num_steps,
                guidance=guidance,
                negative=None if negative is None else [negative] * len(plain),
                kind=kind,
            )
        if boxed:
            run = _Run(self, self._settings, self._policy.schedule(num_steps, kind), guidance, negative or "")
            images[boxed], missing = run.draw([layouts[b] for b in boxed], [seeds[b] for b in boxed])
            for b, phrases in zip(boxed, missing, strict=True):
                unseen[b] = phrases
        return images, unseen

    @property
    def policy(self) -> Policy:
        return self._policy

    def conditions(self, layouts: Sequence[Layout], prompts: Sequence[str]) -> Conditions:
        """Text states of the prompts, and where the checkpoint has GLIGEN's layers, the boxes of the layouts."""
        return Conditions(
            tokens=self._policy.encode(prompts).tokens,
            grounding=gligen_inputs(self._policy, layouts) if self._has_gligen else None,
        )

    def predict(self, latents: Tensor, timesteps_B: Tensor, cond: Conditions) -> Tensor:
        """The network's raw output [B, C, H, W] in float32."""
        dtype = self._policy.dtype
        return self._unet(
            latents.to(dtype),
            timesteps_B,
            encoder_hidden_states=cond.tokens.to(dtype),
            cross_attention_kwargs=None if cond.grounding is None else {"gligen": dict(cond.grounding)},
            return_dict=False,
        )[0].float()

    def maps(self, latents: Tensor, timesteps_B: Tensor, cond: Conditions) -> list[Tensor]:
        """Attention [B, A, P, L] of the guided layers."""
        return cross_attention_maps(
            self._policy.trainable, self._layers, lambda: self.predict(latents, timesteps_B, cond)
        )


def gligen_inputs(policy: Policy, layouts: Sequence[Layout]) -> dict[str, Tensor]:
    """What GLIGEN's position net is called with: slots for 30 boxes, their phrases' pooled text, which are filled."""
    boxes = torch.zeros(len(layouts), MAX_BOXES, 4)
    phrases = torch.zeros(len(layouts), MAX_BOXES, policy.pipeline.text_encoder.config.hidden_size)
    masks = torch.zeros(len(layouts), MAX_BOXES)
    for b, layout in enumerate(layouts):
        num = len(layout.boxes)
        boxes[b, :num] = torch.tensor([[box.left, box.top, box.right, box.bottom] for box in layout.boxes])
        phrases[b, :num] = pooled_phrases(policy, [box.phrase for box in layout.boxes])
        masks[b, :num] = 1
    tensors = {"boxes": boxes, "positive_embeddings": phrases, "masks": masks}
    return {name: tensor.to(policy.device, policy.dtype) for name, tensor in tensors.items()}


@dataclass(frozen=True, kw_only=True)
class _Guided:
    """One image's layout as its attention is judged: masks for every map and object, and what to be like."""

    objects: tuple[GuidedObject, ...]
    references: list[list[Reference]]  # for every object, for every box; empty without references


class _Run:
    """One batch on its way from noise to images."""

    def __init__(
        self, denoiser: LmdDenoiser, settings: LmdSettings, schedule: Schedule, guidance: float, negative: str
    ) -> None:
        self._denoiser, self._policy, self._settings = denoiser, denoiser.policy, settings
        self._schedule, self._guidance, self._negative = schedule, guidance, negative
        self._latent_hw = (denoiser.policy.latent_shape[1], denoiser.policy.latent_shape[2])

    def draw(self, layouts: Sequence[Layout], seeds: Sequence[int]) -> tuple[np.ndarray, list[tuple[str, ...]]]:
        generators = image_generators(seeds)
        latents = self._policy.start_latents(generators)
        prompts = [grounded_prompt(self._policy.pipeline.tokenizer, layout) for layout in layouts]
        references = self._references(layouts, [prompt.objects for prompt in prompts], latents)
        guided = [
            _Guided(objects=prompt.objects, references=own) for prompt, own in zip(prompts, references, strict=True)
        ]
        cond = self._denoiser.conditions(layouts, [prompt.text for prompt in prompts])
        energies = [math.inf] * len(layouts)
        for step in range(self._schedule.num_steps):
            latents = self._pull(latents, step, self._at(cond, step), guided, energies)
            network = self._network(self._at(cond, step))
            latents = denoise(network, latents, self._schedule, (step, step + 1), generators)
        return as_uint8(self._policy.decode(latents)), [prompt.unseen for prompt in prompts]

    def _at(self, cond: Conditions, step: int) -> Conditions:
        """The conditions of this step: GLIGEN's layers are on at first only."""
        is_grounded = step < int(self._settings.grounded_share * self._schedule.num_steps)
        return cond if is_grounded else Conditions(tokens=cond.tokens, grounding=None)

    def _network(self, cond: Conditions) -> Network:
        if self._guidance <= 1:
            return lambda latents, timesteps_B, rows: self._denoiser.predict(latents, timesteps_B, cond)
        both = cond.beside_nothing(self._policy.encode([self._negative] * len(cond.tokens)).tokens)

        def network(latents: Tensor, timesteps_B: Tensor, rows: Sequence[int]) -> Tensor:
            output = self._denoiser.predict(torch.cat([latents, latents]), torch.cat([timesteps_B, timesteps_B]), both)
            without, with_text = output.chunk(2)
            return without + self._guidance * (with_text - without)

        return network

    def _pull(
        self, latents: Tensor, step: int, cond: Conditions, guided: Sequence[_Guided], energies: list[float]
    ) -> Tensor:
        """Latents after this step's descents; an image whose energy fell below the threshold is let go for good."""
        timesteps_B = self._schedule.timesteps_at(step, latents)
        noise = float(self._policy.process.noise_T[int(self._schedule.timesteps[step])])
        for _ in range(self._settings.iterations_at(step, self._schedule.num_steps)):
            rows = [b for b, image in enumerate(guided) if image.objects and energies[b] > self._settings.threshold]
            if not rows:
                break
            with torch.enable_grad():
                part = latents[rows].requires_grad_()
                maps = self._denoiser.maps(part, timesteps_B[rows], cond.index(rows))
                found = [self._energy([m[r] for m in maps], guided[b], step) for r, b in enumerate(rows)]
                (gradient,) = torch.autograd.grad(self._settings.scale * torch.stack(found).sum(), part)
            index = torch.tensor(rows, device=latents.device)
            latents = latents.index_copy(0, index, part.detach() - noise * gradient)
            for b, energy in zip(rows, found, strict=True):
                energies[b] = float(energy.detach()) / maps[0].shape[1]  # per head
        return latents

    def _energy(self, maps: list[Tensor], image: _Guided, step: int) -> Tensor:
        sizes = [map_size(attention.shape[1], self._latent_hw) for attention in maps]
        masks = [[_some_place(item.boxes, size) for item in image.objects] for size in sizes]
        energy = attention_energy(maps, masks, [item.tokens for item in image.objects], self._settings.energy)
        if not image.references:
            return energy
        boxes, words = [item.boxes for item in image.objects], [item.word for item in image.objects]
        wanted = [[reference[step] for reference in own] for own in image.references]
        return energy + self._settings.reference_weight * reference_energy(maps, boxes, words, wanted, sizes)

    def _references(
        self, layouts: Sequence[Layout], objects: Sequence[Sequence[GuidedObject]], latents: Tensor
    ) -> list[list[list[Reference]]]:
        """For every image, object, box: what its word looks at when the object alone is drawn from the same noise."""
        if not self._settings.reference_weight:
            return [[] for _ in layouts]
        singles, noise = [], []
        for b, (layout, items) in enumerate(zip(layouts, objects, strict=True)):
            for item in items:
                singles += [_alone(self._policy.pipeline.tokenizer, layout.background, box) for box in item.boxes]
                noise += [b] * len(item.boxes)
        found: list[Reference] = []
        for start in range(0, len(singles), len(layouts)):  # no more at once than the batch has images
            part = slice(start, start + len(layouts))
            found += self._watch(singles[part], latents[noise[part]])
        each = iter(found)
        return [[[next(each) for _ in item.boxes] for item in items] for items in objects]

    def _watch(self, layouts: Sequence[Layout], latents: Tensor) -> list[Reference]:
        """The attention of each layout's only object, step by step while anything is guided, without fresh noise."""
        prompts = [grounded_prompt(self._policy.pipeline.tokenizer, layout) for layout in layouts]
        cond = self._denoiser.conditions(layouts, [prompt.text for prompt in prompts])
        found: list[Reference] = [[] for _ in layouts]
        for step in range(self._settings.num_guided(self._schedule.num_steps)):
            now = self._at(cond, step)
            timesteps_B = self._schedule.timesteps_at(step, latents)
            maps = self._denoiser.maps(latents, timesteps_B, now)
            for row, prompt in enumerate(prompts):
                found[row].append([attention[row, :, :, prompt.objects[0].word] for attention in maps])
            output = self._network(now)(latents, timesteps_B, range(len(latents)))
            latents = self._schedule.advance(step, latents, output)
        return found


def _alone(tokenizer: Any, background: str, box: Box) -> Layout:
    """A picture of one box before the background, unless that is too long to leave the phrase readable."""
    alone = Layout(prompt=box.phrase, boxes=(box,))
    if not background:
        return alone
    whole = Layout(prompt=f"{background} with {box.phrase}", boxes=(box,))
    return alone if grounded_prompt(tokenizer, whole).unseen else whole


def _some_place(boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """The boxes' mask; boxes too small for any place of the map get the place of the first one's centre."""
    mask = box_mask(boxes, *size)
    if not mask.any():
        box = boxes[0]
        mask[int((box.top + box.bottom) / 2 * size[0]), int((box.left + box.right) / 2 * size[1])] = 1
    return mask
