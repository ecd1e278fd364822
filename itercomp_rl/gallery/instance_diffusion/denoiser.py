"""How InstanceDiffusion denoises: every instance is begun in a picture of its own, then all go on as one.

Source: InstanceDiffusion (arXiv 2402.03290), multi-instance sampler; PLMS (arXiv 2202.09778).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from itercomp_rl.errors import ConfigError

# R rows: for each image its whole layout first, then its instances one by one; B images

# noise in latents [R, C, H, W] at a timestep, for these rows (image, input), with gates this far open
NoiseOf = Callable[[Tensor, int, Sequence[tuple[int, int]], float], Tensor]


def plms_timesteps(num_steps: int, num_levels: int = 1000) -> list[int]:
    """Noise levels from high to low; one more than `num_steps` where that does not divide `num_levels`.

    Where the highest would lie above all levels, as with 3 steps of 1000, it is the last; the official code ends there.

    Raises: ConfigError if num_steps is below 1 or above half the levels.
    """
    if not 1 <= num_steps <= num_levels // 2:
        raise ConfigError(f"num_steps is {num_steps}: PLMS takes 1 to {num_levels // 2} steps of {num_levels} levels")
    return [min(t + 1, num_levels - 1) for t in reversed(range(0, num_levels, num_levels // num_steps))]


def gate_scales(num_steps: int, shares: tuple[float, float, float]) -> list[float]:
    """How far the gates are open at each step: 1, then falling evenly to 0, then 0, for these shares of the steps."""
    num_open, num_falling = int(shares[0] * num_steps), int(shares[1] * num_steps)
    falling = [1 - (i + 1) / num_falling for i in range(num_falling)]
    return [1.0] * num_open + falling + [0.0] * (num_steps - num_open - num_falling)


def multi_instance_sample(
    noise_of: NoiseOf,
    start: Tensor,
    num_instances: Sequence[int],
    abar_T: Tensor,
    num_steps: int,
    *,
    alone: float,
    gates: tuple[float, float, float],
) -> Tensor:
    """Clean latents [B, C, H, W] from noise `start`, which all inputs of an image share.

    num_instances: of every image. abar_T: share of signal variance at every noise level. alone: share of the steps that
    the whole layout and each instance take apart, before their latents are averaged with equal weight.
    """
    timesteps = plms_timesteps(num_steps, len(abar_T))
    scales = gate_scales(len(timesteps), gates)
    num_alone = int(len(timesteps) * alone)
    rows = [(b, i) for b, num in enumerate(num_instances) for i in range(num + 1 if num_alone else 1)]
    walk = _Plms(noise_of, timesteps, abar_T, scales)
    latents, history = start[[b for b, _ in rows]], []
    for step in range(num_alone):
        latents, history = walk.step(latents, step, rows, history)
    whole = [row for row, (_, i) in enumerate(rows) if i == 0]
    latents = _averaged(latents, rows, len(num_instances))
    rows, history = [(b, 0) for b in range(len(num_instances))], [noise[whole] for noise in history]
    for step in range(num_alone, len(timesteps)):
        latents, history = walk.step(latents, step, rows, history)
    return latents


def _averaged(latents: Tensor, rows: Sequence[tuple[int, int]], num_images: int) -> Tensor:
    own = [[row for row, (b, _) in enumerate(rows) if b == image] for image in range(num_images)]
    return torch.stack([latents[picked].mean(dim=0) for picked in own])


class _Plms:
    """Pseudo linear multistep: the noise of up to three earlier steps steadies this one's."""

    def __init__(self, noise_of: NoiseOf, timesteps: Sequence[int], abar_T: Tensor, scales: Sequence[float]) -> None:
        self._noise_of, self._timesteps, self._scales = noise_of, timesteps, scales
        self._abar = [float(abar_T[t]) for t in timesteps] + [float(abar_T[0])]

    def step(
        self, latents: Tensor, step: int, rows: Sequence[tuple[int, int]], history: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Latents one level lower, and the history with this step's noise in it."""
        scale, now = self._scales[step], self._timesteps[step]
        noise = self._noise_of(latents, now, rows, scale)
        if not history:
            below = self._timesteps[min(step + 1, len(self._timesteps) - 1)]
            tried = self._moved(latents, noise, step)
            blend = (noise + self._noise_of(tried, below, rows, scale)) / 2
        elif len(history) == 1:
            blend = (3 * noise - history[-1]) / 2
        elif len(history) == 2:
            blend = (23 * noise - 16 * history[-1] + 5 * history[-2]) / 12
        else:
            blend = (55 * noise - 59 * history[-1] + 37 * history[-2] - 9 * history[-3]) / 24
        return self._moved(latents, blend, step), [*history, noise][-3:]

    def _moved(self, latents: Tensor, noise: Tensor, step: int) -> Tensor:
        now, below = self._abar[step], self._abar[step + 1]
        x0 = (latents - (1 - now) ** 0.5 * noise) / now**0.5
        return below**0.5 * x0 + (1 - below) ** 0.5 * noise
