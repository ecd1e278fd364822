"""DPM++ 2M at Karras levels: exact where the answer is known, for every way a network can say it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.errors import CheckpointError, ConfigError
from itercomp_rl.gallery.karras import ZERO_SNR_SIGMA, dpmpp_2m, karras_sigmas, sample_karras
from tests.parts.checkpoints import make_flux, make_sd


def test_levels_fall_from_the_largest_to_the_smallest_and_then_zero() -> None:
    sigmas = karras_sigmas(torch.linspace(0.03, 14.6, 1000, dtype=torch.float64), 12)
    assert sigmas[[0, -2, -1]].tolist() == pytest.approx([14.6, 0.03, 0.0])
    assert bool((sigmas[1:] < sigmas[:-1]).all())


def zero_snr(folder: Path) -> Path:
    """The checkpoint with its betas rescaled to a last level of noise alone."""
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rescale_betas_zero_snr": True}))
    return folder


@pytest.mark.parametrize("kind", ["scaled_linear", "linear"])
def test_the_infinite_level_of_zero_snr_counts_as_in_diffusers(kind: str) -> None:
    theirs = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=kind, rescale_betas_zero_snr=True)
    abar_T = theirs.alphas_cumprod.double()
    abar_T[-1] = 0  # what diffusers replaces
    sigmas = karras_sigmas(((1 - abar_T) / abar_T).sqrt(), 8)
    assert bool(sigmas.isfinite().all()) and bool((sigmas[1:] < sigmas[:-1]).all())
    assert float(sigmas[0]) == pytest.approx(ZERO_SNR_SIGMA) == pytest.approx(float(theirs.sigmas[0]), rel=1e-6)


def test_a_denoiser_that_knows_the_image_leads_to_it_from_any_noise() -> None:
    x0, noise = torch.full((1, 2), 0.7), torch.randn(1, 2, generator=torch.Generator().manual_seed(0))
    sigmas = karras_sigmas(torch.linspace(0.1, 5, 9, dtype=torch.float64), 4)
    assert torch.equal(dpmpp_2m(lambda x, sigma: x0, x0 + 5 * noise, sigmas), x0)


def test_more_steps_come_nearer_to_the_exact_path_of_gaussian_data() -> None:
    # Data N(0, 1): x0(x, s) = x / (1 + s^2), and the exact path keeps x / sqrt(1 + s^2) constant.
    start = torch.tensor([[3.0]])
    errors = []
    for num_steps in (5, 10, 20, 40):
        sigmas = karras_sigmas(torch.linspace(0.002, 10, 50, dtype=torch.float64), num_steps)
        found = dpmpp_2m(lambda x, s: x / (1 + s**2), start, sigmas)
        errors.append(abs(float(found) - 3 / (1 + 10**2) ** 0.5))
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < errors[2] / 2  # second order would be 4, the last step to zero is first order


@pytest.mark.parametrize(
    ("prediction", "is_zero_snr"),
    [("epsilon", False), ("v_prediction", False), ("sample", False), ("v_prediction", True), ("sample", True)],
)
def test_a_network_that_knows_the_image_leads_to_it_whatever_it_predicts(
    prediction: str, is_zero_snr: bool, tmp_path: Path
) -> None:
    folder = make_sd(tmp_path, prediction_type=prediction)
    policy = load_policy(zero_snr(folder) if is_zero_snr else folder)
    assert bool((policy.process.signal_T == 0).any()) == is_zero_snr
    noise = torch.randn(1, *policy.latent_shape, generator=torch.Generator().manual_seed(1))
    x0 = torch.randn(noise.shape, generator=torch.Generator().manual_seed(2))

    def network(latents: torch.Tensor, timesteps: torch.Tensor, rows: Any) -> torch.Tensor:
        level = int(timesteps[0])
        signal, sigma = float(policy.process.signal_T[level]), float(policy.process.noise_T[level])
        eps = (latents - signal * x0) / sigma
        return {"epsilon": eps, "v_prediction": signal * eps - sigma * x0, "sample": x0}[prediction]

    found = sample_karras(policy, network, noise, 25, None)
    # The network is asked at whole timesteps near each level, so the two differ by the rounding of levels.
    assert (found - x0).abs().max() < 0.05


def test_a_flow_checkpoint_is_refused(tmp_path: Path) -> None:
    policy = load_policy(make_flux(tmp_path), resolution_px=16)
    with pytest.raises(ConfigError, match="dpmpp_2m_karras"):
        sample_karras(policy, lambda x, t, rows: x, torch.zeros(1, *policy.latent_shape), 2, None)


def test_epsilon_prediction_at_zero_snr_is_refused(tmp_path: Path) -> None:
    policy = load_policy(zero_snr(make_sd(tmp_path, prediction_type="epsilon")))
    with pytest.raises(CheckpointError, match="set rescale_betas_zero_snr to false"):
        sample_karras(policy, lambda x, t, rows: x, torch.zeros(1, *policy.latent_shape), 2, None)
