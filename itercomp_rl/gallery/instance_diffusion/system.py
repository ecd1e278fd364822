"""InstanceDiffusion: a planner names and places instances; every one is begun alone, and then they share a picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.policy import Policy, as_uint8
from itercomp_rl.diffusion.sd import StableDiffusion
from itercomp_rl.errors import ConfigError
from itercomp_rl.gallery.backbone import Backbones
from itercomp_rl.gallery.grounded_prompt import pooled_phrases
from itercomp_rl.gallery.instance_diffusion.checkpoint import load_layers
from itercomp_rl.gallery.instance_diffusion.denoiser import multi_instance_sample
from itercomp_rl.gallery.instance_diffusion.instances import Instance, InstancePicture, instance_tensors, picture_of
from itercomp_rl.gallery.instance_diffusion.layers import InstanceLayers
from itercomp_rl.gallery.planning.planners import Planners
from itercomp_rl.gallery.sampling import refuse_vain_negative
from itercomp_rl.gallery.system import Drawn
from itercomp_rl.items import ModelRef

ALONE = 0.36  # share of the steps that instances take apart
GATES = (0.75, 0.0, 0.25)  # share of the steps with gates open, falling, shut

# R rows: for each image its whole layout first, then its instances one by one; B images, C H W latents


class InstanceDiffusion:
    """Layouts on any Stable Diffusion 1 checkpoint with InstanceDiffusion's layers; satisfies GallerySystem."""

    def __init__(self, backbones: Backbones, planners: Planners) -> None:
        self._backbones, self._planners = backbones, planners
        self._loaded: tuple[tuple[str, str], InstanceLayers] | None = None  # the last ones used

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """As GallerySystem says; the notes hold each image's plan."""
        _check(model)
        planned = self._planners.layouts(model.planner, prompts)
        policy = self._backbones.policy(model)
        if not isinstance(policy.family, StableDiffusion):
            raise ConfigError(
                f"gallery.members.{model.name}.model is {model.checkpoint!r}: system 'instance_diffusion' needs a "
                "Stable Diffusion 1 checkpoint"
            )
        denoiser = InstanceDenoiser(policy, self._layers(model, policy))
        pictures = [picture_of(layout) for layout, _ in planned]
        images = denoiser.draw(pictures, seeds, model.num_steps, guidance=model.guidance, negative=model.negative)
        return Drawn(images=images, notes=tuple(note for _, note in planned))

    def _layers(self, model: ModelRef, policy: Policy) -> InstanceLayers:
        key = model.checkpoint, str(model.grounding)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # room first
            self._loaded = key, load_layers(key[1], policy.trainable).to(policy.device)
        return self._loaded[1]


def _check(model: ModelRef) -> None:
    key = f"gallery.members.{model.name}"
    if model.grounding is None:
        raise ConfigError(f"{key}.grounding is not set: system 'instance_diffusion' needs the file of its layers")
    if model.scheduler is not None:
        raise ConfigError(
            f"{key}.scheduler is {model.scheduler!r}: leave it unset, system 'instance_diffusion' has its own sampler"
        )


class InstanceDenoiser:
    """Draws pictures with one policy and one set of layers, which are part of the UNet only while it draws."""

    def __init__(self, policy: Policy, layers: InstanceLayers, *, max_rows: int = 32) -> None:
        self._policy, self._layers, self._max_rows = policy, layers, max_rows
        self._layers.fusers.to(policy.dtype)  # UniFusion's coordinates and the few scales stay float32

    @torch.no_grad()
    def draw(
        self,
        pictures: Sequence[InstancePicture],
        seeds: Sequence[int],
        num_steps: int,
        *,
        guidance: float = 7.5,
        negative: str | None = None,
        alone: float = ALONE,
        gates: tuple[float, float, float] = GATES,
    ) -> np.ndarray:
        """Images uint8 [B, H, W, 3]; a picture without instances is drawn exactly as its prompt alone is."""
        refuse_vain_negative(negative, guidance)
        images = np.zeros((len(pictures), *self._policy.size_px, 3), np.uint8)
        placed = [b for b, picture in enumerate(pictures) if picture.instances]
        if plain := [b for b, picture in enumerate(pictures) if not picture.instances]:
            images[plain] = self._policy.draw(
                [pictures[b].prompt for b in plain],
                [seeds[b] for b in plain],
                num_steps,
                guidance=guidance,
                negative=None if negative is None else [negative] * len(plain),
            )
        if placed:
            start = self._policy.start_latents(image_generators([seeds[b] for b in placed]))
            chosen = [pictures[b] for b in placed]
            noise = _Noise(self._policy, self._layers, chosen, guidance, negative or "", self._max_rows)
            with self._layers.within(self._policy.trainable):
                latents = multi_instance_sample(
                    noise,
                    start,
                    [len(picture.instances) for picture in chosen],
                    self._policy.process.signal_T**2,
                    num_steps,
                    alone=alone,
                    gates=gates,
                )
            images[placed] = as_uint8(self._policy.decode(latents))
        return images


class _Noise:
    """The noise that the network sees in rows of a batch, guided away from the empty prompt and from no instances."""

    def __init__(
        self,
        policy: Policy,
        layers: InstanceLayers,
        pictures: Sequence[InstancePicture],
        guidance: float,
        negative: str,
        max_rows: int,
    ) -> None:
        self._policy, self._layers, self._guidance, self._max_rows = policy, layers, guidance, max_rows
        self._unet: Any = policy.trainable  # Any: a UNet2DConditionModel, called with its own keywords
        inputs = {(b, i): part for b, picture in enumerate(pictures) for i, part in enumerate(_inputs(picture))}
        self._row = {place: row for row, place in enumerate(inputs)}
        self._tokens = policy.encode([prompt for prompt, _ in inputs.values()]).tokens
        self._empty = policy.encode([negative]).tokens
        self._objects = torch.cat([self._fused(group) for _, group in inputs.values()])
        self._no_objects = self._fused(())

    def __call__(self, latents: Tensor, timestep: int, rows: Sequence[tuple[int, int]], gate: float) -> Tensor:
        """As denoiser.NoiseOf says, with at most `max_rows` rows at a time."""
        self._layers.set_gates(gate)
        picked = [self._row[place] for place in rows]
        parts = [
            self._guided(
                latents[start : start + self._max_rows], timestep, picked[start : start + self._max_rows], gate
            )
            for start in range(0, len(picked), self._max_rows)
        ]
        return self._noise_in(latents, torch.cat(parts), timestep)

    def _guided(self, latents: Tensor, timestep: int, rows: list[int], gate: float) -> Tensor:
        tokens, objects = self._tokens[rows], self._objects[rows]
        if self._guidance <= 1:
            return self._output(latents, timestep, tokens, objects, gate)
        num = len(rows)
        both = self._output(
            torch.cat([latents, latents]),
            timestep,
            torch.cat([self._empty.expand(num, -1, -1), tokens]),
            torch.cat([self._no_objects.expand(num, -1, -1), objects]),
            gate,
        )
        without, with_text = both.chunk(2)
        return without + self._guidance * (with_text - without)

    def _output(self, latents: Tensor, timestep: int, tokens: Tensor, objects: Tensor, gate: float) -> Tensor:
        dtype = self._policy.dtype
        return self._unet(
            latents.to(dtype),
            timestep,
            encoder_hidden_states=tokens.to(dtype),
            cross_attention_kwargs={"gligen": {"tokens": objects.to(dtype)}} if gate else None,
            return_dict=False,
        )[0].float()

    def _noise_in(self, latents: Tensor, output: Tensor, timestep: int) -> Tensor:
        process = self._policy.process
        signal, noise = float(process.signal_T[timestep]), float(process.noise_T[timestep])
        if process.prediction == "v_prediction":
            return signal * output + noise * latents
        return output if process.prediction == "epsilon" else (latents - signal * output) / noise

    def _fused(self, group: Sequence[Instance]) -> Tensor:
        net = self._layers.position_net
        instances = instance_tensors([group], lambda phrases: pooled_phrases(self._policy, phrases), net.seg_side)
        if not group:
            instances = instances.emptied()
        return net(instances.to(self._policy.device, torch.float32))


def _inputs(picture: InstancePicture) -> list[tuple[str, tuple[Instance, ...]]]:
    """Prompt and instances of the whole picture, then of each instance in a picture of its own."""
    return [(picture.prompt, picture.instances), *((one.phrase, (one,)) for one in picture.instances)]
