"""DPM++ 2M at Karras noise levels, the scheduler of RPG and Omost, for any diffusion checkpoint."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from itercomp_rl.diffusion.denoise import Network, Process
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.errors import CheckpointError, ConfigError

RHO = 7.0  # bend of the noise levels, Karras et al. (arXiv 2206.00364)
ZERO_SNR_SIGMA = math.sqrt(2.0**24 - 1)  # of diffusers' 2**-24 in place of a signal of zero, whose level is infinite


def karras_sigmas(sigmas_T: Tensor, num_steps: int) -> Tensor:
    """Noise levels [num_steps + 1] from the largest of the process down to its smallest, then 0; float64.

    An infinite level, of betas rescaled to zero terminal SNR, counts as ZERO_SNR_SIGMA.
    """
    sigmas_T = _finite(sigmas_T)
    low, high = float(sigmas_T.min()) ** (1 / RHO), float(sigmas_T.max()) ** (1 / RHO)
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    return torch.cat([(high + ramp * (low - high)) ** RHO, torch.zeros(1, dtype=torch.float64)])


def nearest_timestep(sigmas_T: Tensor, sigma: float) -> int:
    """The training timestep whose noise level is nearest in logarithm; infinite levels as in karras_sigmas."""
    return int((_finite(sigmas_T).log() - math.log(sigma)).abs().argmin())


def dpmpp_2m(denoised: Callable[[Tensor, float], Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    """Walk x [B, ...] = x0 + sigmas[0] * noise down the levels; `denoised` gives x0 of (x, sigma).

    Source: DPM-Solver++ (arXiv 2211.01095), second order, multistep.
    """
    old: Tensor | None = None
    last_width = 0.0
    for now, after in pairwise(sigmas.tolist()):
        x0 = denoised(x, now)
        if after == 0:
            return x0
        width = math.log(now) - math.log(after)
        guess = x0
        if old is not None:
            back = width / (2 * last_width)
            guess = (1 + back) * x0 - back * old
        x = (after / now) * x - math.expm1(-width) * guess
        old, last_width = x0, width
    return x


def sample_karras(policy: Policy, network: Network, noise: Tensor, num_steps: int, start: Tensor | None) -> Tensor:
    """Clean latents [B, C, H, W] from standard noise; `start` are clean latents to put under the first noise.

    Raises: ConfigError for a flow-matching checkpoint, whose noise levels are not of this kind; CheckpointError for
    epsilon prediction at zero terminal SNR.
    """
    process = policy.process
    if process.prediction == "flow":
        raise ConfigError("scheduler is 'dpmpp_2m_karras': it is for SD and SDXL checkpoints; leave it unset here")
    sigmas_T = process.noise_T / process.signal_T
    if process.prediction == "epsilon" and not bool(sigmas_T.isfinite().all()):
        raise CheckpointError("epsilon prediction says nothing at zero signal: set rescale_betas_zero_snr to false")
    sigmas = karras_sigmas(sigmas_T, num_steps)
    rows = range(len(noise))

    def denoised(x: Tensor, sigma: float) -> Tensor:
        signal = 1 / math.sqrt(1 + sigma**2)
        timesteps_B = torch.full((len(x),), nearest_timestep(sigmas_T, sigma), device=x.device)
        return _x0(process, x, network(x * signal, timesteps_B, rows), sigma, signal)

    x = noise * float(sigmas[0])
    return dpmpp_2m(denoised, x if start is None else x + start, sigmas)


def _finite(sigmas_T: Tensor) -> Tensor:
    # Levels just before an infinite one may lie above what it counts as.
    return sigmas_T.clamp(max=ZERO_SNR_SIGMA) if bool(sigmas_T.isinf().any()) else sigmas_T


def _x0(process: Process, x: Tensor, output: Tensor, sigma: float, signal: float) -> Tensor:
    if process.prediction == "epsilon":
        return x - sigma * output
    if process.prediction == "v_prediction":
        return signal**2 * x - sigma * signal * output
    return output
