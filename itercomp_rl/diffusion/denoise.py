"""The arithmetic of denoising: noise processes, schedules of sampling steps, and the loop over them; it knows no model.

Every scheduler here is affine in what the network sees and says, so one table of coefficients per step describes it:

    x0_hat = x0_from_latents * latents + x0_from_output * output
    next   = next_from_latents * latents + next_from_output * output + noise_std * noise
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from itercomp_rl.errors import CheckpointError, ConfigError

# B images, C channels, H W latent height and width, N sampling steps, T noise levels of training

Index = int | Sequence[int]  # one step for all images, or one step per image
Network = Callable[[Tensor, Tensor, Sequence[int]], Tensor]  # latents, timesteps_B, rows of the batch -> output
Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The N steps of one scheduler as coefficients; step 0 starts from noise, step N - 1 ends at the clean latents.

    Example, one deterministic step of a flow process from pure noise:
        Schedule(kind="euler", timesteps=(1000.0,), x0_from_latents=(1.0,), x0_from_output=(-1.0,),
                 next_from_latents=(1.0,), next_from_output=(-1.0,), next_from_x0=(1.0,), noise_std=(0.0,))
    """

    kind: str
    timesteps: tuple[float, ...]  # what the network is told; whole numbers for diffusion, floats for flow
    x0_from_latents: tuple[float, ...]
    x0_from_output: tuple[float, ...]
    next_from_latents: tuple[float, ...]
    next_from_output: tuple[float, ...]
    next_from_x0: tuple[float, ...]  # share of x0_hat in `next`; needed only where x0_hat is clipped
    noise_std: tuple[float, ...]
    clip_x0: float | None = None

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)

    def timesteps_at(self, index: Index, like: Tensor) -> Tensor:
        """The timestep of each of the images in `like` [B, ...]; [B], on its device."""
        numbers = [index] * len(like) if isinstance(index, int) else index
        return torch.tensor([self.timesteps[i] for i in numbers], device=like.device)

    def x0(self, index: Index, latents: Tensor, output: Tensor) -> Tensor:
        """The clean latents that the network's output stands for at this step; same shape as latents."""
        x0 = self._unclipped_x0(index, latents, output)
        return x0 if self.clip_x0 is None else x0.clamp(-self.clip_x0, self.clip_x0)

    def advance(self, index: Index, latents: Tensor, output: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents of the next step; `noise` is standard normal, and may be None only where the step adds none."""
        moved = _take(self.next_from_latents, index, latents) * latents
        moved = moved + _take(self.next_from_output, index, latents) * output
        if self.clip_x0 is not None:
            x0 = self._unclipped_x0(index, latents, output)
            clipped = x0.clamp(-self.clip_x0, self.clip_x0)
            moved = moved + _take(self.next_from_x0, index, latents) * (clipped - x0)
        if noise is None:
            return moved
        return moved + _take(self.noise_std, index, latents) * noise

    def is_noisy(self, index: Index) -> bool:
        steps = [index] if isinstance(index, int) else index
        return any(self.noise_std[i] > 0 for i in steps)

    def _unclipped_x0(self, index: Index, latents: Tensor, output: Tensor) -> Tensor:
        from_latents = _take(self.x0_from_latents, index, latents)
        return from_latents * latents + _take(self.x0_from_output, index, latents) * output


def _take(table: tuple[float, ...], index: Index, like: Tensor) -> float | Tensor:
    if isinstance(index, int):
        return table[index]  # a Python float spares a tensor per step
    shape = (-1,) + (1,) * (like.ndim - 1)
    return torch.tensor([table[i] for i in index], dtype=like.dtype, device=like.device).view(shape)


class Process(Protocol):
    """How images were noised when the network was trained."""

    prediction: Prediction
    kinds: tuple[str, ...]  # schedulers, the deterministic default first
    signal_T: Tensor
    noise_T: Tensor
    timesteps_T: Tensor

    def schedule(self, num_steps: int, kind: str | None = None) -> Schedule: ...


class Diffusion:
    """Variance-preserving diffusion (SD, SDXL) with betas from any diffusers scheduler configuration.

    The scheduler is chosen here and not by the configuration's class: `ddim` (deterministic) or `ddpm` (ancestral).
    Raises: CheckpointError where a setting has no meaning for latents or would silently be ignored.
    """

    kinds: tuple[str, ...] = ("ddim", "ddpm")

    def __init__(self, scheduler_config: Mapping[str, Any]) -> None:
        if "beta_schedule" not in scheduler_config:
            raise CheckpointError(
                f"scheduler {scheduler_config.get('_class_name')} has no beta_schedule: its noise is not this family's"
            )
        prediction = scheduler_config.get("prediction_type", "epsilon")
        variance = scheduler_config.get("variance_type", "fixed_small")
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise CheckpointError(
                f"scheduler prediction_type is {prediction!r}: epsilon, v_prediction or sample is needed"
            )
        if variance not in ("fixed_small", "fixed_large"):
            raise CheckpointError(f"scheduler variance_type is {variance!r}: fixed_small or fixed_large is needed")
        if scheduler_config.get("thresholding", False):
            raise CheckpointError(
                "scheduler thresholding is true: dynamic thresholding is meant for pixels, not latents"
            )
        self.prediction: Prediction = prediction
        self._config = dict(scheduler_config)
        self._variance = variance
        # Schedulers without the argument (Euler, PNDM) never clip, whatever DDPM's own default says.
        clips = scheduler_config.get("clip_sample", False)
        self._clip_x0 = float(scheduler_config.get("clip_sample_range", 1.0)) if clips else None
        ddpm: Any = DDPMScheduler.from_config(self._config)  # Any: declared as scheduler or tuple
        abar_T = ddpm.alphas_cumprod.double()
        self.signal_T = abar_T.sqrt()
        self.noise_T = (1 - abar_T).sqrt()
        self.timesteps_T = torch.arange(len(abar_T))

    def schedule(self, num_steps: int, kind: str | None = None) -> Schedule:
        """Steps of scheduler `kind` (default `ddim`), spaced as the configuration says.

        Raises: ConfigError for an unknown kind or for more steps than noise levels.
        Source: DDPM (arXiv 2006.11239) eq. 7; DDIM (arXiv 2010.02502) eq. 12 with eta 0.
        """
        kind = _known_kind(kind, self.kinds)
        num_levels = len(self.signal_T)
        if not 1 <= num_steps <= num_levels:
            raise ConfigError(
                f"num_steps is {num_steps}: must be 1 to {num_levels}, the noise levels of this checkpoint"
            )
        scheduler: Any = DDIMScheduler.from_config(self._config)
        scheduler.set_timesteps(num_steps)
        timesteps = [int(t) for t in scheduler.timesteps]
        if kind == "ddim":
            # diffusers goes down by a whole stride, which is not always the next timestep: kept, for the same image
            before = [t - num_levels // num_steps for t in timesteps]
            end = float(scheduler.final_alpha_cumprod)
            rule = _ddim_rule
        else:
            before = [*timesteps[1:], -1]
            end = 1.0
            rule = _ddpm_large_rule if self._variance == "fixed_large" else _ddpm_rule
        abar = (self.signal_T**2).tolist()
        rows = [
            (*_read_output(self.prediction, abar[t] ** 0.5, (1 - abar[t]) ** 0.5), *rule(abar[t], _level(abar, p, end)))
            for t, p in zip(timesteps, before, strict=True)
        ]
        return _schedule_of(kind, tuple(timesteps), rows, self._clip_x0)


class Flow:
    """Rectified flow (SD3, FLUX): latents = (1 - sigma) x0 + sigma noise, the network predicts noise - x0.

    Schedulers: `euler` (deterministic) or `renoise` (each step draws fresh noise around x0_hat).
    `explicit_sigmas` hands the scheduler linspace(1, 1/N), as FLUX does; `mu` is the shift by image size, if any.
    """

    kinds: tuple[str, ...] = ("euler", "renoise")

    def __init__(
        self, scheduler_config: Mapping[str, Any], *, mu: float | None = None, explicit_sigmas: bool = False
    ) -> None:
        self.prediction: Prediction = "flow"
        self._config = dict(scheduler_config)
        if "shift" not in self._config:
            raise CheckpointError(
                f"scheduler {self._config.get('_class_name')} has no shift: a flow-matching one is needed"
            )
        if self._config.get("invert_sigmas", False):
            raise CheckpointError("scheduler invert_sigmas is true: noise must shrink along the steps")
        self._mu = mu if self._config.get("use_dynamic_shifting", False) else None
        self._explicit_sigmas = explicit_sigmas
        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(
            self._config
        )  # Any: declared as scheduler or tuple
        sigmas_T = scheduler.sigmas.double().flip(0)
        self.signal_T = 1 - sigmas_T
        self.noise_T = sigmas_T
        self.timesteps_T = (sigmas_T * self._config.get("num_train_timesteps", 1000)).float()

    def schedule(self, num_steps: int, kind: str | None = None) -> Schedule:
        """Steps of scheduler `kind` (default `euler`) at the sigmas that the diffusers scheduler spaces.

        Raises: ConfigError for an unknown kind or fewer than one step.
        """
        kind = _known_kind(kind, self.kinds)
        if num_steps < 1:
            raise ConfigError(f"num_steps is {num_steps}: must be 1 or more")
        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(self._config)
        sigmas = np.linspace(1.0, 1 / num_steps, num_steps) if self._explicit_sigmas else None
        scheduler.set_timesteps(num_steps, sigmas=None if sigmas is None else sigmas.tolist(), mu=self._mu)
        sigma = scheduler.sigmas.tolist()
        is_euler = kind == "euler"
        rows = [
            (
                *_read_output("flow", 1 - now, now),
                1 - after,
                after if is_euler else 0.0,
                0.0,
                0.0 if is_euler else after,
            )
            for now, after in pairwise(sigma)
        ]
        return _schedule_of(kind, tuple(scheduler.timesteps.tolist()), rows, None)


def shift_for_size(scheduler_config: Mapping[str, Any], num_tokens: int, *, default_max_shift: float) -> float:
    """The shift `mu` of the sigmas for an image of so many patches: linear between the configuration's two ends."""
    low_tokens = scheduler_config.get("base_image_seq_len", 256)
    high_tokens = scheduler_config.get("max_image_seq_len", 4096)
    low, high = scheduler_config.get("base_shift", 0.5), scheduler_config.get("max_shift", default_max_shift)
    return low + (high - low) * (num_tokens - low_tokens) / (high_tokens - low_tokens)


def _known_kind(kind: str | None, kinds: tuple[str, ...]) -> str:
    if kind is not None and kind not in kinds:
        raise ConfigError(f"scheduler is {kind!r}: this policy family has {' and '.join(kinds)}")
    return kind or kinds[0]


def _level(abar: list[float], timestep: int, end: float) -> float:
    return abar[timestep] if timestep >= 0 else end


def _read_output(prediction: Prediction, signal: float, noise: float) -> tuple[float, float, float, float]:
    """How x0 and the noise follow from (latents, output): x0 from each, then noise from each."""
    if prediction == "flow":
        return 1.0, -noise, 1.0, signal
    if prediction == "v_prediction":
        return signal, -noise, noise, signal
    if prediction == "sample":
        return 0.0, 1.0, 1 / noise, -signal / noise
    if signal == 0:
        raise CheckpointError("epsilon prediction says nothing at zero signal: set rescale_betas_zero_snr to false")
    return 1 / signal, -noise / signal, 0.0, 1.0


def _ddim_rule(abar: float, abar_next: float) -> tuple[float, float, float, float]:
    """next = first * x0 + second * noise_hat + third * latents + fourth * fresh noise."""
    return abar_next**0.5, (1 - abar_next) ** 0.5, 0.0, 0.0


def _ddpm_rule(abar: float, abar_next: float) -> tuple[float, float, float, float]:
    beta = 1 - abar / abar_next
    variance = (1 - abar_next) / (1 - abar) * beta
    from_x0 = abar_next**0.5 * beta / (1 - abar)
    return from_x0, 0.0, (1 - beta) ** 0.5 * (1 - abar_next) / (1 - abar), variance**0.5


def _ddpm_large_rule(abar: float, abar_next: float) -> tuple[float, float, float, float]:
    from_x0, from_noise, from_latents, _ = _ddpm_rule(abar, abar_next)
    std = (1 - abar / abar_next) ** 0.5 if abar_next < 1 else 0.0  # the last step adds no noise
    return from_x0, from_noise, from_latents, std


def _schedule_of(
    kind: str, timesteps: tuple[float, ...], rows: Sequence[tuple[float, ...]], clip_x0: float | None
) -> Schedule:
    x0_x, x0_out, noise_x, noise_out, next_x0, next_noise, next_x, std = (np.array(c) for c in zip(*rows, strict=True))
    return Schedule(
        kind=kind,
        timesteps=timesteps,
        x0_from_latents=tuple(x0_x.tolist()),
        x0_from_output=tuple(x0_out.tolist()),
        next_from_latents=tuple((next_x0 * x0_x + next_noise * noise_x + next_x).tolist()),
        next_from_output=tuple((next_x0 * x0_out + next_noise * noise_out).tolist()),
        next_from_x0=tuple(next_x0.tolist()),
        noise_std=tuple(std.tolist()),
        clip_x0=clip_x0,
    )


def image_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image, so that an image depends on its seed and never on its batch or device."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def standard_noise(generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device) -> Tensor:
    """Standard normal float32 [B, *shape], each image from its own generator."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators]).to(device)


def denoise(
    network: Network,
    latents: Tensor,
    schedule: Schedule,
    steps: tuple[Index, Index],
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Walk latents [B, ...] from step `steps[0]` up to, not through, step `steps[1]`.

    Either end may differ between images. Gradients flow if they are enabled. Each image draws noise from its own
    generator, and only at the steps it takes.
    Raises: ValueError if a range leaves the schedule, or if the scheduler is stochastic and generators are missing.
    """
    starts, stops = (_per_image(end, len(latents)) for end in steps)
    if min(starts, default=0) < 0 or max(stops, default=0) > schedule.num_steps:
        raise ValueError(f"steps {steps} leave the schedule of {schedule.num_steps} steps")
    now = list(starts)
    while rows := [b for b in range(len(now)) if now[b] < stops[b]]:
        index = [now[b] for b in rows]
        is_whole = len(rows) == len(latents)
        part = latents if is_whole else latents[rows]
        part = _advance(network, part, schedule, (index, rows), generators)
        latents = part if is_whole else latents.index_copy(0, torch.tensor(rows, device=latents.device), part)
        for b in rows:
            now[b] += 1
    return latents


def _advance(
    network: Network,
    latents: Tensor,
    schedule: Schedule,
    place: tuple[list[int], list[int]],
    generators: Sequence[torch.Generator] | None,
) -> Tensor:
    steps, rows = place
    index: Index = steps[0] if min(steps) == max(steps) else steps
    output = network(latents, schedule.timesteps_at(index, latents), rows)
    if not schedule.is_noisy(index):
        return schedule.advance(index, latents, output)
    if generators is None:
        raise ValueError(f"scheduler {schedule.kind!r} adds noise: pass one generator per image")
    noise = standard_noise([generators[b] for b in rows], latents.shape[1:], latents.device)
    return schedule.advance(index, latents, output, noise)


def _per_image(index: Index, num_images: int) -> list[int]:
    steps = [index] * num_images if isinstance(index, int) else [int(i) for i in index]
    if len(steps) != num_images:
        raise ValueError(f"{len(steps)} step numbers were given for {num_images} images")
    return steps


def noised_for_training(
    process: Process, x0: Tensor, generator: torch.Generator, timestep_range: tuple[float, float] = (0.0, 1.0)
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents [B, ...] at uniformly drawn noise levels, what the network should say of them, and their timesteps [B].

    timestep_range: the share of the noise levels to draw from, 0 clean to 1 pure noise.
    Raises: ValueError if the range holds no level.
    """
    num_levels = len(process.signal_T)
    low, high = (round(end * num_levels) for end in timestep_range)
    if not 0 <= low < high <= num_levels:
        raise ValueError(
            f"timestep_range is {timestep_range}: it must be rising, within 0 to 1, and hold a noise level"
        )
    level_B = torch.randint(low, high, (len(x0),), generator=generator)
    return noised_at(process, x0, level_B, torch.randn(x0.shape, generator=generator).to(x0.device))


def noised_at(process: Process, x0: Tensor, level_B: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latents [B, ...] at the noise levels given (rows of signal_T), what the network should say, timesteps [B]."""
    shape = (-1,) + (1,) * (x0.ndim - 1)
    signal, sigma = (
        table[level_B].to(x0.dtype).to(x0.device).view(shape) for table in (process.signal_T, process.noise_T)
    )
    targets = {
        "epsilon": lambda: noise,
        "v_prediction": lambda: signal * noise - sigma * x0,
        "sample": lambda: x0,
        "flow": lambda: noise - x0,
    }
    return signal * x0 + sigma * noise, targets[process.prediction](), process.timesteps_T[level_B].to(x0.device)
