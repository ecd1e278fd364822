"""A policy: one diffusers checkpoint with the single network that learns, seen the same way whatever its family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from itercomp_rl.diffusion.denoise import (
    Index,
    Network,
    Process,
    Schedule,
    denoise,
    image_generators,
    standard_noise,
)
from itercomp_rl.errors import CheckpointError, ConfigError, DivergedError
from itercomp_rl.store.image_loader import View

# B images, C latent channels, H W latent height and width (image height and width where it says image), L text tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """What the network is told besides latents and time; every tensor has the images first.

    Example, one image of a tiny SD: Conditioning(tokens=torch.zeros(1, 8, 32))
    """

    tokens: Tensor  # [B, L, D] states of the text encoders
    pooled: Tensor | None = None  # [B, P] one vector per prompt: SDXL, SD3, FLUX
    time_ids: Tensor | None = None  # [B, 6] original size, crop, target size in pixels: SDXL
    guidance: Tensor | None = None  # [B] distilled guidance: FLUX-dev

    def __len__(self) -> int:
        return len(self.tokens)

    def index(self, rows: Sequence[int] | Tensor | slice) -> Conditioning:
        """The images at `rows`, in that order; a row may repeat."""
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Conditioning:
        return self._each(lambda tensor: tensor.to(device))

    def at_distilled_guidance(self, guidance: float) -> Conditioning:
        """The same, with this distilled guidance for every image, where the network is told one at all."""
        if self.guidance is None:
            return self
        return replace(self, guidance=torch.full_like(self.guidance, guidance))

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """All images of the parts in order. Raises: ValueError if parts differ in which tensors they hold."""
        columns: dict[str, list[Any]] = {name: [getattr(p, name) for p in parts] for name in _CONDITIONING_FIELDS}
        mixed = [name for name, tensors in columns.items() if len({tensor is None for tensor in tensors}) > 1]
        if mixed or not parts:
            raise ValueError(
                f"cannot join {len(parts)} conditionings: {mixed or 'nothing'} is missing from some of them"
            )
        present = {name: torch.cat(tensors) for name, tensors in columns.items() if tensors[0] is not None}
        return Conditioning(**present)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        tensors = {name: getattr(self, name) for name in _CONDITIONING_FIELDS}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items() if tensor is not None})


_CONDITIONING_FIELDS = tuple(field.name for field in fields(Conditioning))


# Every projection of an attention to itself or to text; and of one in which text and image attend together.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class Family(Protocol):
    """What differs between SD, SDXL, SD3 and FLUX; each lives in its own file of this folder."""

    trainable_name: str  # the pipeline component that learns: unet or transformer
    lora_targets: tuple[str, ...]  # the layers that an adapter sits on unless told otherwise: all attention projections
    text_components: tuple[str, ...]  # what only `encode` needs, tokenizers included
    patch_px: int  # latents are cut into patches of this side: sizes must divide by it

    def process(self, pipeline: Any, latent_shape: tuple[int, int, int]) -> Process: ...

    def latent_channels(self, pipeline: Any) -> int: ...

    def native_size(self, pipeline: Any) -> int | Sequence[int]:
        """Side, or height and width, of the latents the checkpoint was made for."""
        ...

    def encode(self, pipeline: Any, prompts: list[str], size_px: tuple[int, int], device: torch.device) -> Conditioning:
        """Conditioning of prompts by the pipeline's text encoders, which are on `device`."""
        ...

    def has_zero_negative(self, pipeline: Any) -> bool:
        """Whether guidance without a negative prompt pushes away from zeros instead of from the empty prompt."""
        ...

    def call(self, network: Callable[..., Any], latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor: ...


class Policy:
    """One loaded checkpoint: `trainable` learns, the VAE (always float32) and the text encoders are frozen.

    Latents are [B, C, H, W] float32 for every family, FLUX included, images [B, 3, H, W] in 0..1.
    `network` is what a forward pass calls: `trainable`, or an engine wrapped around it by a learner.
    Where only latents are needed the VAE need not be loaded: its configuration alone says what latents look like.
    """

    def __init__(
        self,
        pipeline: Any,
        family: Family,
        *,
        resolution_px: int | None = None,
        vae_config: Mapping[str, Any] | None = None,
    ) -> None:
        """vae_config: of a VAE that was not loaded; None: the pipeline has it."""
        self.pipeline = pipeline
        self.family = family
        self.trainable: nn.Module = getattr(pipeline, family.trainable_name)
        self.network: Callable[..., Any] = self.trainable
        self.vae_config: Mapping[str, Any] = pipeline.vae.config if vae_config is None else vae_config
        self.vae_factor = 2 ** (len(self.vae_config["block_out_channels"]) - 1)
        self.size_px = self._size_px(resolution_px)
        height, width = (side // self.vae_factor for side in self.size_px)
        self.latent_shape = (family.latent_channels(pipeline), height, width)
        if self.vae_config["latent_channels"] != self.latent_shape[0]:
            raise CheckpointError(
                f"the {family.trainable_name} reads {self.latent_shape[0]} latent channels and the VAE makes "
                f"{self.vae_config['latent_channels']}: a text-to-image checkpoint is needed"
            )
        if self.vae_config.get("latents_mean") is not None:
            raise CheckpointError("the VAE states latents_mean: only scaling_factor and shift_factor are understood")
        if pipeline.components[family.trainable_name].config.get("time_cond_proj_dim"):
            raise CheckpointError(
                "the UNet states time_cond_proj_dim: a consistency-distilled model cannot be a policy"
            )
        self.process = family.process(pipeline, self.latent_shape)
        self._schedules: dict[tuple[int, str | None], Schedule] = {}
        self.empty_prompt: Conditioning | None = None  # what guidance pushes away from; encoded when first needed

    @property
    def has_vae(self) -> bool:
        """Whether the VAE was loaded."""
        return self.pipeline.vae is not None

    @property
    def vae(self) -> AutoencoderKL:
        """The VAE decodes latents to images and encodes images to latents. Raises: ConfigError if it was not loaded."""
        if not self.has_vae:
            raise ConfigError("images cannot be decoded or encoded: this policy was loaded without its VAE")
        return self.pipeline.vae

    @property
    def device(self) -> torch.device:
        return next(self.trainable.parameters()).device

    def to(self, device: torch.device | str) -> Policy:
        self.pipeline.to(device)
        return self

    def to_channels_last(self, *, but_trainable: bool = False) -> Policy:
        """Keep convolution weights in the order that kernels read fastest; weights loaded later keep it.

        but_trainable: for learners, whose engine and files want what learns in the usual order.
        """
        vae = [self.vae] if self.has_vae else []
        for module in vae if but_trainable else [*vae, self.trainable]:
            module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] torch's overload
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations of network and VAE in the backward pass: slower, far less memory."""
        self.trainable.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue] diffusers ModelMixin
        self.vae.enable_gradient_checkpointing()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of each prompt, truncated as the pipeline does. Raises: ConfigError without text encoders."""
        if not (encoders := self._text_encoders()):
            raise ConfigError("prompts cannot be encoded: the text encoders were dropped or not loaded")
        device = next(encoders[0].parameters()).device
        return self.family.encode(self.pipeline, list(prompts), self.size_px, device).to(self.device)

    def text_encoders_to(self, place: torch.device | str | torch.dtype) -> None:
        """Move or cast what `encode` needs alone; the network and the VAE stay as they are."""
        for encoder in self._text_encoders():
            encoder.to(place)  # pyright: ignore[reportCallIssue, reportArgumentType] torch's overload

    def drop_text_encoders(self) -> None:
        """Free the text encoders' memory once all prompts are encoded; `encode` raises from then on."""
        self.pipeline.register_modules(**dict.fromkeys(self.family.text_components))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # a GPU may be shared: what torch would keep, another process needs

    def _text_encoders(self) -> list[nn.Module]:
        parts = [getattr(self.pipeline, name) for name in self.family.text_components]
        return [part for part in parts if isinstance(part, nn.Module)]

    def start_latents(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Pure noise [B, C, H, W], what diffusers draws from the same generators.

        Hand the same generator objects on to `denoise_to`: fresh ones of the same seed would repeat this very noise.
        """
        return standard_noise(generators, self.latent_shape, self.device)

    def schedule(self, num_steps: int, kind: str | None = None) -> Schedule:
        """Sampling steps, kept once made; kind `ddim` or `ddpm` for SD, SDXL, `euler` or `renoise` for SD3, FLUX."""
        key = (num_steps, kind)
        if key not in self._schedules:
            self._schedules[key] = self.process.schedule(num_steps, kind)
        return self._schedules[key]

    def predict(
        self, latents: Tensor, cond: Conditioning, timesteps_B: Tensor, *, network: nn.Module | None = None
    ) -> Tensor:
        """The raw output of the network [B, C, H, W] in float32; it runs in its own dtype, or in autocast's.

        network: another one of the same shape and dtype, in place of the policy's.
        """
        return self.family.call(
            self.network if network is None else network, latents.to(self.dtype), timesteps_B, cond
        ).float()

    @property
    def dtype(self) -> torch.dtype:
        return next(self.trainable.parameters()).dtype

    @torch.no_grad()
    def denoise_to(
        self,
        latents: Tensor,
        cond: Conditioning,
        schedule: Schedule,
        steps: tuple[Index, Index],
        generators: Sequence[torch.Generator] | None = None,
        *,
        guidance: float | None = None,
    ) -> Tensor:
        """Latents [B, C, H, W] after steps start..stop-1, without gradient; either end may be one number per image.

        guidance: as in `draw`.
        """
        return denoise(self.guided(cond, guidance, None), latents, schedule, steps, generators)

    def predict_x0(
        self,
        latents: Tensor,
        cond: Conditioning,
        schedule: Schedule,
        index: Index,
        *,
        num_steps: int = 1,
        generators: Sequence[torch.Generator] | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """The clean latents the network sees in `latents` at step `index`, differentiable in the network.

        num_steps: steps walked with gradient, the last one giving the prediction. 1 is ReFL; K with index N - K is
        DRaFT-K (arXiv 2309.17400), at K times the memory. guidance: as in `draw`.
        Raises: ValueError if the steps leave the schedule.
        """
        index = index if isinstance(index, int) else [int(i) for i in index]
        last: Index = index + num_steps - 1 if isinstance(index, int) else [i + num_steps - 1 for i in index]
        final = [last] if isinstance(last, int) else last
        if num_steps < 1 or max(final) >= schedule.num_steps or min(final) - num_steps + 1 < 0:
            raise ValueError(f"{num_steps} steps from step {index} leave the schedule of {schedule.num_steps} steps")
        network = self.guided(cond, guidance, None)
        latents = denoise(network, latents, schedule, (index, last), generators)
        output = network(latents, schedule.timesteps_at(last, latents), range(len(latents)))
        return schedule.x0(last, latents, output)

    def decode(self, x0: Tensor) -> Tensor:
        """Images [B, 3, H, W] in 0..1 of clean latents, float32, differentiable where the clamp lets gradient pass."""
        with torch.autocast(x0.device.type, enabled=False):
            z: Any = x0.float() / self._vae_scale + self._vae_shift  # Any: declared as a FloatTensor
            image = self.vae.decode(z, return_dict=False)[0]
        return (image / 2 + 0.5).clamp(0, 1)

    def fit(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] at the policy's own size: scaled to cover it (bicubic, antialias), the middle taken."""
        return images if images.shape[-2:] == self.size_px else _covering(images, self.size_px)

    @property
    def view(self) -> View:
        """Images as `fit` makes them, as bytes."""
        size_px = self.size_px  # the view must not hold the policy
        return View(f"policy-{size_px[0]}x{size_px[1]}", size_px, lambda image: _covering(image, size_px))

    @torch.no_grad()
    def encode_images(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Clean latents [B, C, H, W] of images [B, 3, H, W] in 0..1: the VAE's mean, or a draw with `generator`."""
        with torch.autocast(images.device.type, enabled=False):
            posterior = self.vae.encode(images.float() * 2 - 1).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        z = posterior.mode() if generator is None else posterior.sample(generator)
        return (z - self._vae_shift) * self._vae_scale

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str] | Conditioning,
        seeds: Sequence[int],
        num_steps: int,
        *,
        guidance: float | None = None,
        negative: Sequence[str] | None = None,
        kind: str | None = None,
    ) -> np.ndarray:
        """Finished images, uint8 [B, H, W, 3], one per prompt and seed.

        guidance: None draws as feedback learning sees it (no classifier-free guidance; FLUX keeps its distilled value).
        negative: what classifier-free guidance pushes away from, None for the pipeline's own way.
        With `ddim` this is what the diffusers pipeline draws with a DDIM scheduler, with `euler` what the SD3 and FLUX
        pipelines draw.
        Raises: ValueError if counts differ; ConfigError where it must encode text and cannot, or a negative is in vain.
        """
        cond = prompts if isinstance(prompts, Conditioning) else self.encode(prompts)
        if len(cond) != len(seeds):
            raise ValueError(f"{len(cond)} prompts and {len(seeds)} seeds: give one seed per prompt")
        generators = image_generators(seeds)
        schedule = self.schedule(num_steps, kind)
        network = self.guided(cond, guidance, negative)
        latents = denoise(network, self.start_latents(generators), schedule, (0, num_steps), generators)
        return as_uint8(self.decode(latents))

    def _conditioned(self, cond: Conditioning) -> Network:
        def network(latents: Tensor, timesteps_B: Tensor, rows: Sequence[int]) -> Tensor:
            return self.predict(latents, cond if len(rows) == len(cond) else cond.index(rows), timesteps_B)

        return network

    def guided(self, cond: Conditioning, guidance: float | None, negative: Sequence[str] | None) -> Network:
        """What denoising calls. Guidance above 1 doubles the batch: the unconditional rows first, then those of `cond`.

        Raises: ConfigError for a negative prompt in vain.
        """
        if negative is not None and (cond.guidance is not None or guidance is None or guidance <= 1):
            raise ConfigError(f"a negative prompt has no effect at guidance {guidance} of this policy: leave it unset")
        if guidance is not None and cond.guidance is not None:
            return self._conditioned(cond.at_distilled_guidance(guidance))
        if guidance is None or guidance <= 1:
            return self._conditioned(cond)
        unconditional = self._negative(cond, negative)
        both = Conditioning.cat([unconditional, cond])

        def network(latents: Tensor, timesteps_B: Tensor, rows: Sequence[int]) -> Tensor:
            is_whole = len(rows) == len(cond)
            told = both if is_whole else both.index([*rows, *(row + len(cond) for row in rows)])
            output = self.predict(torch.cat([latents, latents]), told, torch.cat([timesteps_B, timesteps_B]))
            without, with_text = output.chunk(2)
            return without + guidance * (with_text - without)

        return network

    def _negative(self, cond: Conditioning, negative: Sequence[str] | None) -> Conditioning:
        if negative is not None or not self.family.has_zero_negative(self.pipeline):
            return self.encode(negative) if negative else self._nothing_said().index([0] * len(cond))
        pooled = None if cond.pooled is None else torch.zeros_like(cond.pooled)
        return replace(cond, tokens=torch.zeros_like(cond.tokens), pooled=pooled)

    def _nothing_said(self) -> Conditioning:
        if self.empty_prompt is None:
            self.empty_prompt = self.encode([""])
        return self.empty_prompt

    def _size_px(self, resolution_px: int | None) -> tuple[int, int]:
        native = self.family.native_size(self.pipeline)
        native_hw = (native, native) if isinstance(native, int) else tuple(native)
        size_px = (
            (resolution_px, resolution_px)
            if resolution_px is not None
            else (native_hw[0] * self.vae_factor, native_hw[1] * self.vae_factor)
        )
        step = self.vae_factor * self.family.patch_px
        if any(side < step or side % step for side in size_px):
            raise ConfigError(
                f"resolution is {size_px} px: both sides must be multiples of {step} px for this checkpoint"
            )
        return size_px

    @property
    def _vae_scale(self) -> float:
        return self.vae_config["scaling_factor"]

    @property
    def _vae_shift(self) -> float:
        return self.vae_config["shift_factor"] or 0.0


def _covering(images: Tensor, size_px: tuple[int, int]) -> Tensor:
    height, width = size_px
    scale = max(height / images.shape[-2], width / images.shape[-1])
    covering = [max(goal, round(side * scale)) for goal, side in zip(size_px, images.shape[-2:], strict=True)]
    images = torch.nn.functional.interpolate(images, covering, mode="bicubic", antialias=True, align_corners=False)
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    return images[..., top : top + height, left : left + width].clamp(0, 1)


def as_uint8(images: Tensor) -> np.ndarray:
    """Images [B, 3, H, W] in 0..1 as uint8 [B, H, W, 3], rounded to the nearest level.

    Raises: DivergedError for an image that is not finite.
    """
    refuse_not_finite(images.detach().isfinite().flatten(1).all(1).tolist())
    return (images.detach().float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def refuse_not_finite(is_finite_B: Sequence[bool]) -> None:
    """Raises: DivergedError that numbers the images of a batch which are not finite; uint8 would make them black."""
    if wild := [row for row, is_finite in enumerate(is_finite_B) if not is_finite]:
        raise DivergedError(
            f"images {wild} of a batch of {len(is_finite_B)} (from 0) are not finite (NaN): draw in bf16 "
            "or fp32 in place of fp16 (dtype), with another scheduler, or leave the model out"
        )
